"""How the tiny base model is made, the stand-in for Qwen3-VL-4B-Instruct. Needs torch, so `world` does not import it.

`python -m reverse_lib.world.base data/models/base` makes it anew. Files: `architecture` (tokenizer, configuration,
initial weights), `drills` (what it is trained on), `vision` (its eyes), `recipe` (the steps, and what a base can do).
"""
