"""A notebook as other programs write it when a reader presses "save" there."""

import copy

import nbformat

PROGRAMS = ("Colab", "Kaggle", "VS Code")
EMPTY = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None}


def saved_by(program: str, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook with the program's metadata, its own ids and, at the end, the empty cell that it adds."""
    saved = copy.deepcopy(notebook)
    saved.cells.append(nbformat.from_dict(EMPTY))
    python = {"display_name": "Python 3", "name": "python3"}
    if program == "Colab":
        saved.nbformat_minor = 0
        saved.metadata = {"colab": {"provenance": [], "toc_visible": True, "gpuType": "T4"}, "accelerator": "GPU"}
        saved.metadata |= {"kernelspec": python, "language_info": {"name": "python"}}
    elif program == "Kaggle":
        saved.nbformat_minor = 4
        saved.metadata = {"kaggle": {"accelerator": "none", "dataSources": [], "isGpuEnabled": False}}
        saved.metadata |= {"kernelspec": python | {"language": "python"}, "language_info": {"name": "python"}}
    else:
        saved.metadata |= {"kernelspec": python | {"display_name": ".venv (3.11.7)", "language": "python"}}
        saved.metadata |= {"language_info": {"name": "python", "version": "3.11.7"}, "orig_nbformat": 4}
    for number, cell in enumerate(saved.cells):
        if program == "VS Code":
            cell.id = f"{number:08x}"
            cell.metadata |= {"vscode": {"languageId": "python"}}
        else:
            cell.pop("id", None)
        if program == "Colab":
            cell.metadata |= {
                "id": f"xYz{number}",
                "outputId": f"aBc{number}",
                "colab": {"base_uri": "https://localhost/"},
            }
        if program == "Kaggle":
            cell.metadata |= {
                "_uuid": f"{number:040x}",
                "trusted": True,
                "execution": {"iopub.status.busy": "2026-11-30"},
            }
        if cell.cell_type == "code":  # what a cell wrote last comes first
            cell.outputs = cell.outputs[::-1]
    saved.metadata = nbformat.from_dict(saved.metadata)
    return saved
