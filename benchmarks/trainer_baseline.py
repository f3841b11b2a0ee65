"""The plain way to inject fingerprints: `transformers.Trainer`, full fine-tuning, nothing else.

What a user would write without this library: the pairs in the chat template, labels on the reply
alone, AdamW, bfloat16 products where the hardware has them. Used by fingerprints.py to compare wall
time; not part of the library.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from loyal.fingerprints.fingerprint import FingerprintSet
from loyal.fingerprints.inject import greedy_recall
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.products import native_bfloat16


@dataclass
class Baseline:
    """What a run gave."""

    seconds: float
    recall: float
    epochs: int


class _UntilLearned(TrainerCallback):
    """Stops at 99 % recall or when time is up; what measuring recall takes is not counted."""

    def __init__(self, model: HFModel, pairs: FingerprintSet, limit: float) -> None:
        self.model, self.pairs, self.limit = model, pairs, limit
        self.measuring, self.recall, self.started, self.seconds = 0.0, 0.0, time.monotonic(), 0.0

    def on_epoch_end(self, args, state, control, **kwargs):
        began = time.monotonic()
        self.seconds = began - self.started - self.measuring
        self.model.model.eval()
        self.recall = greedy_recall(self.model, self.pairs)
        self.model.model.train()
        self.measuring += time.monotonic() - began
        print(f"  trainer epoch {state.epoch:.0f}: {self.seconds:.0f} s, recall {self.recall:.3f}")
        control.should_training_stop = self.recall >= 0.99 or self.seconds > self.limit


class _Pairs(torch.utils.data.Dataset):
    """Token ids and labels of each pair, without padding."""

    def __init__(self, model: HFModel, pairs: FingerprintSet) -> None:
        self.rows = []
        for one in pairs.fingerprints:
            prompt, reply = model.prompt_ids(Prompt(one.key)), model.reply_ids(one.response)
            self.rows.append((prompt + reply, [-100] * len(prompt) + reply))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids, labels = self.rows[index]
        return {"input_ids": ids, "labels": labels}


def _collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    pad = [longest - len(row["input_ids"]) for row in rows]
    lists = list(zip(rows, pad, strict=True))
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * gap for row, gap in lists]),
        "labels": torch.tensor([row["labels"] + [-100] * gap for row, gap in lists]),
        "attention_mask": torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * gap for row, gap in lists]
        ),
    }


def run(
    model: HFModel, pairs: FingerprintSet, *, learning_rate: float, batch: int, limit: float
) -> Baseline:
    """Fine-tune `model` in place until 99 % recall, or `limit` seconds."""
    watch = _UntilLearned(model, pairs, limit)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, num_train_epochs=100, per_device_train_batch_size=batch,
            learning_rate=learning_rate, lr_scheduler_type="constant", save_strategy="no",
            report_to=[], disable_tqdm=True, logging_strategy="no",
            use_cpu=model.device.type == "cpu", dataloader_pin_memory=False,
            remove_unused_columns=False, seed=0, bf16=native_bfloat16(model.device),
        )  # fmt: skip
        trainer = Trainer(
            model=model.model, args=settings, train_dataset=_Pairs(model, pairs),
            data_collator=_collate, callbacks=[watch],
        )  # fmt: skip
        watch.started = time.monotonic()
        trainer.train()
        epochs = round(trainer.state.epoch or 0)
    model.model.eval()
    return Baseline(watch.seconds, watch.recall, epochs)
