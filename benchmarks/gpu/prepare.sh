#!/bin/sh
# Compiles here, where there need be no GPU, what run.py measures there: into the folder $1.
# VULKAN is the architecture of the GPU (default ampere), CUDA likewise (default sm_86); EDGEC the
# command. For weights that are too large to carry, run this on the GPU's machine instead.
set -eu
folder=${1:?usage: prepare.sh FOLDER}
targets=cpu,cuda:${CUDA:-sm_86},vulkan:${VULKAN:-ampere}
for model in bundled:tiny-dense preset:qwen3-0.6b preset:llama-3.2-1b; do
    for dtype in f32 f16; do
        "${EDGEC:-.venv/bin/edgec}" compile "$model" --target "$targets" --dtype "$dtype" -c 1024 \
            -o "$folder/${model#*:}-$dtype.edgec"
    done
done
# The padding ablation on the Qwen3-0.6B shape; the arms of a target share one file of weights.
"${PYTHON:-.venv/bin/python}" benchmarks/padding.py preset:qwen3-0.6b --dtype f16 \
    --target "cuda:${CUDA:-sm_86},vulkan:${VULKAN:-ampere}" --compile-only --keep "$folder/padding"
