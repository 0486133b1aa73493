#!/usr/bin/env bash
# What an installed wheel must do, in the environment on the PATH and in an empty folder: help, plan, launch, report.
set -euo pipefail
export RAY_ADDRESS=local CUDA_VISIBLE_DEVICES="" NANOCHAT_SWEEP_STORAGE=$PWD/storage NANOCHAT_CACHE=$PWD/cache
nanochat-sweep --version
nanochat-sweep --help >help.txt
nanochat-sweep plan smoke
nanochat-sweep launch smoke --name tried --num-steps 8
nanochat-sweep report tried --out-html report.html
python -m scripts.base_train --help >trainer_help.txt
test -s help.txt && test -s report.html && grep -q -- --use-moe trainer_help.txt
python - <<'END'
import importlib.util
from pathlib import Path

for package in ("nanochat", "sweeps", "cli", "scripts"):
    (place,) = importlib.util.find_spec(package).submodule_search_locations
    assert "site-packages" in place, f"{package} comes from {place}, not from the wheel"
    assert Path(place, "py.typed").is_file(), f"{package} says nothing about its types"
END
echo "the wheel works"
