"""Handwritten digits by the Trainer: every step, every epoch, checkpoints, and on from there after a crash.

Kill it and start it again: it goes on in the same run of MLflow.

    python digits_trainer.py [epochs]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from tailrace.training import Trainer

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
train, val = random_split(digits, [0.8, 0.2], torch.Generator().manual_seed(0))

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))

trainer = Trainer(
    model,
    DataLoader(train, batch_size=32, shuffle=True),
    DataLoader(val, batch_size=256),
    torch.optim.AdamW(model.parameters(), lr=1e-3),
    nn.CrossEntropyLoss(),
    num_epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 20,
    metrics=["accuracy", "f1_macro"],
    monitor="val_f1_macro",
    early_stopping_patience=5,
    checkpoint_dir="checkpoints",
    resume_from="auto",
    seed=0,
)

if __name__ == "__main__":
    result = trainer.train()
    print(f"best macro F1 {result['best_val_f1_macro']:.3f} in epoch {result['best_epoch']}")
