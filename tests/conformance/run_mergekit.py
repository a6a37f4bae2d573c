"""Runs in mergekit's own environment: merges every recipe of a folder, `x.yaml` into `x.out`."""

import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for recipe in sorted(Path(sys.argv[1]).glob("*.yaml")):
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    options = MergeOptions(copy_tokenizer=False, write_model_card=False)
    run_merge(config, str(recipe.with_suffix(".out")), options)
