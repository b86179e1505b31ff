import copy
import functools
from unittest import mock

import mujoco
import pytest

compiled = functools.lru_cache(maxsize=4)(mujoco.MjModel.from_xml_path)


@pytest.fixture(autouse=True, scope="module")
def compiling_once():
    """Scenes compiled lately are copied: compiling the same files again and again would take most of the time."""
    with mock.patch.object(mujoco.MjModel, "from_xml_path", lambda path: copy.copy(compiled(path))):
        yield
