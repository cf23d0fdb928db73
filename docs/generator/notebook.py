"""Execute the tutorial notebook in an empty folder and store its outputs: `python docs/generator/notebook.py`."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "tutorials" / "own_cohort.ipynb"
_LIMIT_S = 240  # of one cell, on a busy machine


def execute(folder: Path) -> nbformat.NotebookNode:
    """Execute the notebook in `folder` with this Python, and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell or a command in it failed.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=_LIMIT_S, coalesce_streams=True, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = output.text.replace(f"{folder}/", "")
    return notebook


def main() -> None:
    """Execute the notebook and write it back with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder))
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
