"""Print the chance of a click of each event, a line of JSON each."""

import argparse
import importlib
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=argparse.FileType("rb"), default=sys.stdin.buffer)
    model, bad = importlib.import_module("model").load(), 0
    for number, chance, wrong in model.predict_lines(parser.parse_args().file):
        print("null" if wrong else chance)
        sys.stderr.write(f"line {number}: {wrong}\n" if wrong else "")
        bad += bool(wrong)
    sys.exit(f"{bad} of the events could not be scored; each is null" if bad else 0)
