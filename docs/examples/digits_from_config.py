"""Trains what `digits_from_config.yaml` says, on scikit-learn's handwritten digits. `tailrace train` does the same."""

from pathlib import Path

from sklearn.datasets import load_digits

from tailrace.training import train_from_config

here = Path(__file__).parent
load_digits(as_frame=True).frame.to_csv(here / "digits.csv", index=False)

if __name__ == "__main__":
    result = train_from_config(here / "digits_from_config.yaml")
    print(f"{result['val_accuracy']:.1%} of unseen digits, version {result.model_version} of the model 'digits'")
