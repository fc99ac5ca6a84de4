#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's script of this name: a HuggingFace GPT-NeoX folder to <saved_dir>/<infer_gpu_num>-gpu."""

import sys

from ft_script import Script
from neoxnative.convert import to_ft

if __name__ == "__main__":
    script = Script(__doc__)
    script.add("-saved_dir", "-o", required=True, help="where <infer_gpu_num>-gpu is written")
    script.add("-in_file", "-i", required=True, help="the folder to convert, in any format that neoxnative reads")
    script.add("-infer_gpu_num", "-i_g", type=int, required=True, help="tensor-parallel ranks")
    script.add("-processes", "-p", type=int, default=4, help="threads that convert (default: 4)")
    script.add("-weight_data_type", choices=("fp32", "fp16", "bf16"), default="fp32", help="type of the files (default: fp32)")
    script.add("-model_name", "-m_n", required=True, help="model_name of config.ini")
    sys.exit(
        script.run(
            lambda args: to_ft(
                args.in_file,
                args.saved_dir,
                ranks=args.infer_gpu_num,
                dtype=script.dtype(args.weight_data_type),
                model_name=args.model_name,
                threads=args.processes,
            )
        )
    )
