# One command each, on a fresh machine with Python 3.11 or newer: the set-up in .venv happens by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install test format lock demo movielens bench

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# Done again only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## set up .venv

test: $(INSTALLED)  ## format check, lint, types, tests and doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --no-loadscope-reorder

format: $(INSTALLED)  ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED)  ## renew docker/requirements.txt: hashes of what the image installs
	$(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/python docker/lock.py

demo: $(INSTALLED)  ## two minutes of drift, rebuilds and a plot
	$(BIN)/resprout demo

movielens: $(INSTALLED)  ## fetch MovieLens-100k into data/, which is not committed
	$(BIN)/python -m examples.movielens

bench: $(INSTALLED)  ## the table of README, both columns; an hour
	$(BIN)/python -m bench.demo
