"""What a page says of accuracy comes from the answers: with baseline and treatment swapped it says otherwise, and of equal answers nothing."""

import json
from pathlib import Path

from leverlab.accuracy.plan import run_folder, study_jobs
from leverlab.aggregate.tables import write_accuracy
from leverlab.matrix.expand import expand
from leverlab.records import AccuracyRecord, Score, write_json
from leverlab.report.questions import questions
from leverlab.report.theory_values import theory_values
from tests.unit.report_study import make_study

STUDY = """\
question: What does the batch limit do to answers?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
levers: {prefix_caching: [on], max_num_seqs: [64, 4]}
baseline: {prefix_caching: on, max_num_seqs: 64}
primary: {max_num_seqs: throughput at burst}
replicates: 3
accuracy: {task: gsm8k, data: config/accuracy/sums}
questions:
  - {ask: "What does it do to accuracy?", answers: [{kind: accuracy, lever: max_num_seqs}]}
"""
QUESTIONS = 20
WRONG = {"64": 0, "4": 9}
"""Batch limit → how many of the questions its server answers wrong."""


def told(root: Path, *, wrong: dict[str, int], baseline: dict[str, str] | None = None) -> str:
    """What the page answers, where the server of each limit has answered so many questions wrong."""
    study = make_study(root, "asked", text=STUDY, baseline=baseline, records=False, keyed=True)
    (matrix,) = expand(study.configuration, ["asked"]).studies
    for job in study_jobs(matrix, study.configuration):
        folder = run_folder(job, study.layout)
        folder.mkdir(parents=True)
        right = [number >= wrong[str(job.server.identity["flags"]["max-num-seqs"])] for number in range(QUESTIONS)]
        samples = [
            {
                **dict.fromkeys(("doc_id", "doc_hash", "prompt_hash", "target_hash"), number),
                "resps": [[f"#### {number if solved else 0}"]],
                "filter": "strict-match",
                "metrics": ["exact_match"],
                "exact_match": float(solved),
            }
            for number, solved in enumerate(right, 1)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        score = Score(
            metric="exact_match", filter="strict-match", value=sum(right) / QUESTIONS, standard_error=0.1, questions=QUESTIONS, higher_is_better=True
        )  # fmt: skip
        record = AccuracyRecord(
            server=job.server.id, replicate=str(job.replicate), task_id=job.task.id, status="measured", specification={}, engine="truth",
            started_at="2026-01-31T12:00:00.000+00:00", duration_s=1.0, scores=[score],
        )  # fmt: skip
        write_json(folder / "accuracy.json", record)
    write_accuracy(matrix, study.configuration, study.layout)
    data = study.read()
    ((sentence,),) = [answer.sentences for answer in questions(data, theory_values(data))]
    return str(sentence).replace("\N{NO-BREAK SPACE}", " ")


def test_told_from_the_other_side_a_loss_is_a_gain(tmp_path: Path) -> None:
    forward = told(tmp_path / "forward", wrong=WRONG)
    backward = told(tmp_path / "backward", wrong=WRONG, baseline={"max_num_seqs": "4"})
    assert "4 instead of 64: gsm8k" in forward and "64 instead of 4: gsm8k" in backward
    assert "55.0 % ± 10.0 against 100.0 % ± 10.0" in forward and "100.0 % ± 10.0 against 55.0 % ± 10.0" in backward
    assert "−45.0 points, 95 % interval −" in forward and "+45.0 points, 95 % interval +" in backward
    assert "accuracy worsens" in forward and "accuracy improves" in backward
    for sentence in (forward, backward):
        assert "11 of 20 answers are the same to the last character" in sentence


def test_of_equal_answers_no_difference_is_claimed_from_either_side(tmp_path: Path) -> None:
    equal = dict.fromkeys(WRONG, 3)
    for side, baseline in (("forward", None), ("backward", {"max_num_seqs": "4"})):
        sentence = told(tmp_path / side, wrong=equal, baseline=baseline)
        assert "no difference was found" in sentence and "20 of 20 answers are the same" in sentence
        assert "improves" not in sentence and "worsens" not in sentence
