"""What verbs share: progress."""

from tumorscope.cli.common import training_progress
from tumorscope.training.fold import Event


def test_a_finished_training_is_one_line_where_nobody_watches(capsys):
    row = {"train_loss": 1.3557, "val_loss": 1.3686, "val_accuracy": 0.2987}
    with training_progress() as report:
        report(Event("baseline_cnn-official-s0 fold 0", 5, 5, row=row, finished=True))
    scores = "train loss 1.3557, val loss 1.3686, val accuracy 0.2987"
    assert capsys.readouterr().err == f"baseline_cnn-official-s0 fold 0: 5 epochs, {scores}\n"
