#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's script of this name: a GPT-NeoX training checkpoint (latest, configs/*.yml, layer files) of any size and source
parallelism to <save-dir>/<tensor-parallelism>-gpu."""

import sys

from ft_script import Script
from neoxnative.convert import to_ft

if __name__ == "__main__":
    script = Script(__doc__)
    script.add("checkpoint_dir", metavar="checkpoint-dir", help="the folder to convert")
    script.add("save_dir", metavar="save-dir", help="where <tensor-parallelism>-gpu is written")
    script.add("--tensor-parallelism", "-t", type=int, default=1, help="tensor-parallel ranks (default: 1)")
    script.add("--jobs", "-j", type=int, help="threads that convert (default: the cores, up to 8)")
    text = "type of the files (default: fp32, FasterTransformer's only one)"
    script.add("--weight-data-type", choices=("fp32", "fp16", "bf16"), default="fp32", help=text)
    script.add("--model-name", default="gptneox_20B", help="model_name of config.ini (default: gptneox_20B)")
    sys.exit(
        script.run(
            lambda args: to_ft(
                args.checkpoint_dir,
                args.save_dir,
                ranks=args.tensor_parallelism,
                dtype=script.dtype(args.weight_data_type),
                model_name=args.model_name,
                threads=args.jobs,
            )
        )
    )
