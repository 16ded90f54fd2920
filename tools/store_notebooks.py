"""Run the notebooks from top to bottom and store what they show: `make notebooks`.

What differs from run to run is not stored: outputs of cells marked NBVAL_IGNORE_OUTPUT, and times of execution. Nor are
widgets: no kernel is behind them any more, and a page that finds none shows the tables that stand beside them.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

VARIES = "# NBVAL_IGNORE_OUTPUT"
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_S = 60
KERNEL = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}


def store(path: Path) -> None:
    """Execute one notebook in its folder, and write it back."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    options = {"kernel_name": "python3", "coalesce_streams": True}  # how a print is cut into outputs varies
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=resources, **options).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [] if cell.source.startswith(VARIES) else cell.outputs
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
    notebook.metadata = nbformat.from_dict({**KERNEL, "language_info": {"name": "python"}})
    nbformat.write(notebook, path)
    print(f"stored {path.name}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(Path(name))
