#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, line by line, with FasterTransformer's arguments: makes start_ids.csv from text, and text from `out`.

Lines of ids are separated by spaces, as in `out`, or by commas, with or without spaces, as in start_ids.csv. Empty lines are left out.
FasterTransformer's script took ids separated by commas without spaces, its own output, for text."""

import argparse
import sys
from pathlib import Path

from neoxnative.tokenizer import open_tokenizer

DEFAULT = "../models/20B_tokenizer.json"
LARGEST_ID = 2**31 - 1


def parse(lines):
    """The ids of each line, None if one of them is no list of ids."""
    rows = []
    for line in lines:
        words = [word.strip() for word in line.strip().rstrip(",").split(",")] if "," in line else line.split()
        if not all(word.isascii() and word.isdigit() for word in words):
            return None
        ids = [int(word) for word in words]
        if any(i > LARGEST_ID for i in ids):
            return None
        rows.append(ids)
    return rows


def convert(lines, tokenizer, action):
    rows = None if action == "tokenize" else parse(lines)
    if rows is None and action == "detokenize":
        raise ValueError("the file is not ids alone, expected on each line ids separated by spaces or by commas")
    if rows is None:
        return [",".join(map(str, tokenizer.encode(line))) for line in lines]
    return [tokenizer.decode(row) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("in_file", help="the file to convert")
    parser.add_argument("--out-file", help="where the lines are written; without it they are printed, with --- between them")
    text = f"a tokenizer.json, a spiece.model, or the folder that holds one (default: {DEFAULT})"
    parser.add_argument("--tokenizer", default=DEFAULT, help=text)
    text = "auto detokenizes a file whose lines are all ids, and tokenizes any other (default: auto)"
    parser.add_argument("--action", choices=("tokenize", "detokenize", "auto"), default="auto", help=text)
    args = parser.parse_args()
    try:
        lines = [line for line in Path(args.in_file).read_text(encoding="utf-8").split("\n") if line.strip()]
        out = convert(lines, open_tokenizer(args.tokenizer), args.action)
        if args.out_file:
            Path(args.out_file).write_text("\n".join(out), encoding="utf-8")
        else:
            print("\n---\n".join(out))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
