"""Do page and kernel hear each other through an anywidget, in each ipykernel that does it in another thread?

A click is only put into a queue by whichever thread the kernel has for it; a thread of the kernel's own answers, by a
trait. That is how labkit's screen does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from browser import kernels
from browser.lab import JupyterLab
from browser.page import Notebook, expect

VERSION = "import ipykernel; ipykernel.__version__"
WIDGET = '''
import anywidget, queue, threading, traitlets

class Echo(anywidget.AnyWidget):
    _esm = """
    function render({ model, el }) {
        const button = el.appendChild(document.createElement("button"));
        const heard = el.appendChild(document.createElement("output"));
        button.textContent = "Ask";
        button.onclick = () => { model.set("asked", model.get("asked") + 1); model.save_changes(); };
        const show = () => { heard.textContent = model.get("answer"); };
        model.on("change:answer", show);
        show();
    }
    export default { render };
    """
    asked = traitlets.Int(0).tag(sync=True)
    answer = traitlets.Unicode("nothing yet").tag(sync=True)

requests = queue.SimpleQueue()
echo = Echo()
echo.observe(lambda change: requests.put(change.new), "asked")

def answer():
    while True:
        echo.answer = f"answer {requests.get()}"

threading.Thread(target=answer, daemon=True).start()
echo
'''
BUSY = """
with open({path!r}) as pipe:  # until the test writes
    requests.put("while a cell runs")
    pipe.read()
"""


@pytest.mark.parametrize("version", kernels.VERSIONS)
def test_a_click_reaches_python_and_a_thread_answers(
    lab: JupyterLab, notebook: Notebook, ipykernel: Callable[[str], str], version: str
) -> None:
    """Between two cells a click is heard and answered; a thread is seen also while a cell keeps the kernel busy."""
    pipe = lab.notebooks / f"busy-{version}"
    os.mkfifo(pipe)
    cells = [VERSION, WIDGET, BUSY.format(path=str(pipe))]
    notebook.open(lab.write(f"echo-{version}.ipynb", *cells, kernel=ipykernel(version)))

    notebook.run(0)
    assert notebook.outputs(0) == [f"'{version}'"]

    notebook.run(1)
    heard = notebook.output(1).locator("output")
    expect(heard).to_have_text("nothing yet")
    for count in (1, 2):
        notebook.output(1).get_by_role("button", name="Ask").click()
        expect(heard).to_have_text(f"answer {count}")

    notebook.start(2)
    with pipe.open("w"):
        expect(heard).to_have_text("answer while a cell runs")
        assert "*" in notebook.cell(2).inner_text()
    notebook.wait(2)
