# Everything starts here; `make help` lists what there is. Each target but `gpu` brings .venv in line with requirements.txt first.
.DEFAULT_GOAL := help
.PHONY: address assignments book clean colab gpu help lab lock notebooks pdf picture quick rehearse serve test venv
PORT ?= 8000
RUN := .venv/bin/python

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | sort | expand -t 18
	@echo 'PYTHON=/path/to/python3.11 names the interpreter for .venv, where several are installed.'

venv: ## create .venv from requirements.txt and fetch the real models, or leave them alone when they are in place
	@python3 tools/bootstrap.py
	@$(RUN) -m llmbook.pretrained

book: venv ## build the site from the stored outputs; the last line is its path
	@$(RUN) tools/build_site.py

pdf: venv ## print the book, or one chapter: CHAPTER=03-attention; the last line is the file
	@$(RUN) tools/pdf.py '$(CHAPTER)'

test: venv ## run every check, or those with the words in their name: STAGE=rules; a table at the end
	-@$(RUN) tools/vendor.py --views
	@$(RUN) tools/check.py '$(STAGE)'

quick: venv ## run the checks that take under three minutes: ruff, types, unit tests but the slow ones, rules
	@$(RUN) tools/check.py --quick

notebooks: venv ## execute the chapters whose code changed, or one: CHAPTER=03-attention
	@$(RUN) tools/vendor.py --views
	@$(RUN) tools/notebooks.py '$(CHAPTER)'

colab: venv ## run the chapters with the installed package alone, in Python 3.12: CHAPTER=... LIBRARIES=newest or colab
	@$(RUN) tools/colab.py '$(CHAPTER)' --libraries '$(LIBRARIES)' --python '$(COLAB_PYTHON)'

rehearse: venv ## run the chapters on a pretended GPU, to see that they would run on a real one: CHAPTER=09-objectives
	@$(RUN) tools/rehearse.py '$(CHAPTER)'

gpu: ## measure the book on a GPU, in pieces of eight minutes that go on from what is recorded; no network needed
	@$(if $(wildcard .venv),$(RUN),python3) tools/gpu.py $(CHAPTER)

lab: venv ## open JupyterLab on the notebooks
	-@$(RUN) tools/vendor.py --views
	@.venv/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/en \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

serve: venv ## serve the built site on this machine: PORT=8000
	@test -f _build/html/index.html || { echo 'error: there is no site yet: run `make book` first' >&2; exit 1; }
	@$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html '$(PORT)'

assignments: venv ## write student notebooks, nbgrader's course folder and Gradescope's zips
	@$(RUN) tools/assignments.py

picture: book ## take the README's picture of the built site anew
	@$(RUN) tools/picture.py

address: venv ## change the repository's address everywhere: URL=https://github.com/owner/name
	@$(RUN) tools/address.py '$(URL)'

lock: venv ## write requirements.txt anew from the ranges in pyproject.toml
	@$(RUN) tools/lock.py

clean: ## remove what was built; .venv stays
	@rm -rf _build node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
