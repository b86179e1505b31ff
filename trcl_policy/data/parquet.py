"""Columns of numbers in parquet files. The one file of the converters that imports pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.files import explained

MAX_GROUP_BYTES = 2**32  # of a row group, which is decoded whole: more is damage, or meant to fill memory


def require() -> None:
    """Raise ValueError with the remedy where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError("LeRobotDatasets need pyarrow, which is not installed; pip install pyarrow") from None


class ParquetRows:
    """One file that is read column by column; the row groups read last stay in memory.

    Args:
        path: the file.
        needed: columns that it must have.

    Raises:
        ValueError: damaged, or a column is missing; one line.
        FileError: can't be read.
    """

    def __init__(self, path: Path, needed: Sequence[str] = ()) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        with explained("read", path):
            path.open("rb").close()
            try:
                self._file = pq.ParquetFile(path, memory_map=True)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path} must be a whole parquet file, got {_line(error)}") from None
        self.columns = tuple(self._file.schema_arrow.names)
        missing = [name for name in needed if name not in self.columns]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(needed)}, got none called {', '.join(missing)}")
        description = self._file.metadata
        sizes = [description.row_group(number) for number in range(description.num_row_groups)]
        if any(group.total_byte_size > MAX_GROUP_BYTES for group in sizes):
            raise ValueError(f"{path} must have row groups of at most {MAX_GROUP_BYTES} bytes, got more")
        self._starts = np.concatenate([[0], np.cumsum([group.num_rows for group in sizes], dtype=np.int64)])
        self._held: dict[str, tuple[int, Any]] = {}

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return int(self._starts[-1])

    def numbers(self, column: str, start: int, stop: int, shape: tuple[int, ...] = ()) -> NDArray:
        """Return rows [start, stop) of a column, (n, *shape); raises ValueError where they are not so."""
        parts = [_flat(part, f"column {column} of {self.path}") for part in self._parts(column, start, stop)]
        values = np.concatenate(parts) if parts else np.empty(0)
        wanted = (stop - start) * int(np.prod(shape))
        if values.size != wanted or values.dtype.kind not in "biuf":
            raise ValueError(
                f"column {column} must hold numbers of shape {shape} in every row, got {values.size} values of "
                f"{values.dtype} in {stop - start} rows ({self.path})"
            )
        return values.reshape(stop - start, *shape)

    def values(self, column: str, start: int = 0, stop: int | None = None) -> list[Any]:
        """Return rows [start, stop) of a column as Python's own."""
        parts = self._parts(column, start, self.num_rows if stop is None else stop)
        return [value for part in parts for value in part.to_pylist()]

    def type_of(self, column: str) -> str:
        """Return the name of a column's type."""
        return str(self._file.schema_arrow.field(column).type)

    def _parts(self, column: str, start: int, stop: int) -> list[Any]:
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"{self.path} must have {stop} rows, got {self.num_rows}")
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        parts = []
        for group in range(first, len(self._starts) - 1):
            low, high = int(self._starts[group]), int(self._starts[group + 1])
            if low >= stop:
                break
            whole = self._group(column, group)
            parts.append(whole.slice(max(start - low, 0), min(stop, high) - max(start, low)))
        return parts

    def _group(self, column: str, group: int) -> Any:
        import pyarrow as pa

        if self._held.get(column, (-1, None))[0] != group:
            try:
                chunked = self._file.read_row_group(group, columns=[column]).column(0)
            except (pa.ArrowException, OSError, IndexError) as error:
                raise ValueError(f"{self.path} must be a whole parquet file, got {_line(error)}") from None
            self._held[column] = (group, chunked.combine_chunks())
        return self._held[column][1]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _flat(part: Any, what: str) -> NDArray:
    """Return all numbers of an arrow array, whose lists are taken apart; raises ValueError where some are missing."""
    import pyarrow as pa

    while True:
        if part.null_count:
            raise ValueError(f"{what} must have no gaps, got {part.null_count} rows without a value")
        if not hasattr(part, "flatten") or not pa.types.is_nested(part.type):
            return part.to_numpy(zero_copy_only=False)
        if pa.types.is_struct(part.type):
            raise ValueError(f"{what} must hold numbers, got {part.type}")
        part = part.flatten()


class ParquetWriter:
    """A file that grows by tables of equal columns; a context manager.

    Args:
        path: the file.
        columns: types and row shapes by name.
    """

    def __init__(self, path: Path, columns: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._shapes = {name: shape for name, (_, shape) in columns.items()}
        self._schema = pa.schema([(name, _type(dtype, shape)) for name, (dtype, shape) in columns.items()])
        self._file = pq.ParquetWriter(path, self._schema, compression="snappy", use_dictionary=False)

    def write(self, rows: Mapping[str, NDArray]) -> None:
        """Write one row group."""
        import pyarrow as pa

        arrays = [_nested(rows[name], shape) for name, shape in self._shapes.items()]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the file's index."""
        self._file.close()


def _type(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(dtype)
    for size in reversed(shape):
        kind = pa.list_(kind, size) if len(shape) == 1 else pa.list_(kind)
    return kind


def _nested(rows: NDArray, shape: tuple[int, ...]) -> Any:
    """Return rows as arrow lists, of fixed size where there is one axis."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, shape[0])
    for size in reversed(shape):
        flat = pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, size, dtype=np.int32), flat)
    return flat


def write_records(path: Path, records: Sequence[Mapping[str, Any]], index: str | None = None) -> None:
    """Write a small table of records; ``index`` names the column that pandas takes for the table's index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(record) for record in records])
    if index is not None:
        table = table.replace_schema_metadata({"pandas": json.dumps(_pandas(table, index))})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _pandas(table: Any, index: str) -> dict[str, Any]:
    """Return what pandas writes beside a table, so that it finds its index again."""
    kinds = {"string": ("unicode", "object"), "int64": ("int64", "int64")}
    columns = []
    for field in table.schema:
        pandas_type, numpy_type = kinds[str(field.type)]
        columns.append(
            {
                "name": field.name,
                "field_name": field.name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
        )
    return {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0]
