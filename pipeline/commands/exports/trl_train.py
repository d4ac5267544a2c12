"""Train with TRL's SFTTrainer on what `omniopd export --to trl` wrote.

    python train.py --model POLICY --reference BASE --out OUT

POLICY is the checkpoint that wrote the rollouts, BASE the untrained student; in round 1 they are
the same. Both come from `omniopd export ... --to hf`. No optimizer state is carried over.
"""

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from loss import collate, counts, loss
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent
SETTINGS = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))


class Trainer(SFTTrainer):
    """SFTTrainer with the loss of omniopd, divided by the counts of the whole optimizer step."""

    loss_is_scaled_for_ga = True  # by these counts: not again by the accumulation steps

    def __init__(self, *args: Any, reference: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        batches, _ = super().get_batch_samples(*args)
        if not batches:
            return batches, None
        found = counts(batches, SETTINGS["reduce"] == "token_mean").to(self.args.device)
        return batches, self.accelerator.reduce(found, "sum")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            reference = self.reference(**asked).logits
        outputs = model(**asked, use_cache=False)
        correct = SETTINGS["correction"] == "ratio"
        told = (SETTINGS["beta"], correct, SETTINGS["unused_ids"])
        found = loss(outputs.logits, reference, inputs, num_items_in_batch, *told)
        found = found * self.accelerator.num_processes  # which averages gradients over processes
        return (found, outputs) if return_outputs else found


def config(out: str, **changed: Any) -> SFTConfig:
    """The arm's own settings; SFTTrainer is told that the dataset is prepared."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # of torchrun or accelerate launch
    micro = min(SETTINGS["micro_batch_size"], SETTINGS["batch_size"])
    found = {
        "output_dir": out,
        "learning_rate": SETTINGS["lr"],
        "adam_beta1": SETTINGS["betas"][0],
        "adam_beta2": SETTINGS["betas"][1],
        "weight_decay": 0.0,
        "max_grad_norm": SETTINGS["clip"],
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": SETTINGS["warmup_steps"],
        "num_train_epochs": SETTINGS["epochs"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(SETTINGS["batch_size"] // (micro * processes), 1),
        "seed": SETTINGS["seed"],
        "bf16": SETTINGS["bfloat16"],  # of the products; weights and loss are float32
        "use_cpu": not torch.accelerator.is_available(),
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "report_to": "none",
        "logging_steps": 1,
    }
    return SFTConfig(**found | changed)


def trainer(model: str, reference: str, arguments: SFTConfig) -> Trainer:
    safe = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(model, **safe),
        args=arguments,
        train_dataset=Dataset.from_parquet(str(HERE / "data.parquet")),
        processing_class=tokenizer,
        data_collator=functools.partial(collate, pad_id=pad),
        reference=AutoModelForCausalLM.from_pretrained(reference, **safe).eval(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "reference", "out"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    found = trainer(args.model, args.reference, config(args.out))
    found.train()
    found.save_model(args.out)


if __name__ == "__main__":
    main()
