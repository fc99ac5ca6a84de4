#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's script of this name: an older port of GPT-NeoX to HuggingFace's classes (transformer.h.0.attn.qkv_proj, n_embd), with
prefix prompts, to <saved_dir>/<infer_gpu_num>-gpu."""

import sys

from ft_script import Script
from neoxnative.convert import to_ft
from neoxnative.convert.jp import open_jp_source
from neoxnative.convert.prompts import open_prompt


def convert(args):
    if args.trained_gpu_num < 1 or args.infer_gpu_num % args.trained_gpu_num:
        message = f"infer_gpu_num is {args.infer_gpu_num}, expected a multiple of trained_gpu_num {args.trained_gpu_num}, 1 or more"
        raise ValueError(message)
    source = open_jp_source(args.in_file)
    files = [file for file in (args.prompt_in_file_list or "").split(",") if file]
    prompts = [open_prompt(file.strip(), source.shape) for file in files]
    return to_ft(
        source,
        args.saved_dir,
        ranks=args.infer_gpu_num,
        dtype=script.dtype(args.weight_data_type),
        model_name=args.model_name,
        prompts=prompts,
        threads=args.processes,
    )


if __name__ == "__main__":
    script = Script(__doc__)
    script.add("-saved_dir", "-o", required=True, help="where <infer_gpu_num>-gpu is written")
    script.add("-in_file", "-i", required=True, help="the folder to convert")
    text = "files of prefix prompts, separated by commas: torch tensors [length, layers, 2, heads, head size], named prefix_prompt.<task>.*"
    script.add("-prompt_in_file_list", "-p_i_list", help=text)
    script.add("-trained_gpu_num", "-t_g", type=int, default=1, help="must divide infer_gpu_num (default: 1)")
    script.add("-infer_gpu_num", "-i_g", type=int, required=True, help="tensor-parallel ranks")
    script.add("-processes", "-p", type=int, default=4, help="threads that convert (default: 4)")
    script.add("-weight_data_type", choices=("fp32", "fp16", "bf16"), default="fp32", help="type of the files (default: fp32)")
    script.add("-model_name", "-m_n", required=True, help="model_name of config.ini")
    sys.exit(script.run(convert))
