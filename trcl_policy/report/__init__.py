"""What finished runs say: tables, plots and one self-contained page."""
