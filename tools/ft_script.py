# SPDX-License-Identifier: Apache-2.0
"""What the scripts with FasterTransformer's names have in common."""

import argparse
import sys
import time

from neoxnative.commands import print_report
from neoxnative.convert.values import FT_NAMES


class Script:
    def __init__(self, description):
        self._parser = argparse.ArgumentParser(description=description)
        self.add = self._parser.add_argument

    @staticmethod
    def dtype(name):
        return next(dtype for dtype, known in FT_NAMES.items() if known == name)

    def run(self, convert):
        """Prints the arguments, converts, and returns the exit code: 0, or 1 after an error."""
        args = self._parser.parse_args()
        print("\n=============== Argument ===============")
        for key, value in vars(args).items():
            print(f"{key}: {value}")
        print("========================================", flush=True)
        start = time.perf_counter()
        try:
            report = convert(args)
        except (OSError, ValueError, NotImplementedError, MemoryError, RuntimeError) as error:
            print(f"error: {error or type(error).__name__}", file=sys.stderr)
            return 1
        print_report(report, time.perf_counter() - start)
        return 0
