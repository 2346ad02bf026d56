import hashlib
import json
import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from leverlab.config import ConfigError
from leverlab.config.base import validated
from leverlab.config.model import Model
from leverlab.layout import Layout
from leverlab.models.dimensions import dimensions
from leverlab.models.prepare import model_folder, prepare_model
from leverlab.models.synthetic import synthetic_files
from leverlab.models.tokenizer import SPECIAL_TOKENS, synthetic_tokenizer
from leverlab.models.words import added_tokens, word_tokens

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
REVISION = "0e9e39f249a16976918f6564b8830bc894c89659"


def model(**source):
    return validated(Model, {"source": source}, "models.yaml", "m")


@pytest.mark.parametrize("vocabulary", [10_000, 16_384, 40_001])
def test_the_tokenizer_has_as_many_entries_as_asked_for(vocabulary):
    tokenizer = synthetic_tokenizer(vocabulary)
    assert tokenizer.get_vocab_size() == vocabulary
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary))


def test_a_vocabulary_too_small_for_the_benchmark_client_is_refused():
    with pytest.raises(ValueError, match="at least 10000"):
        synthetic_tokenizer(9_999)


@pytest.mark.parametrize("vocabulary", [10_000, 40_001])
@pytest.mark.parametrize("text", ["bado kife", "Hello, wörld!\n\t 日本 🙂", "  two  spaces ", "<|end|>", ""])
def test_any_text_survives_the_tokenizer(vocabulary, text):
    tokenizer = synthetic_tokenizer(vocabulary)
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_are_one_token_each():
    tokenizer = synthetic_tokenizer(10_000)
    assert [tokenizer.encode(token).ids for token in SPECIAL_TOKENS] == [[id_] for id_ in range(len(SPECIAL_TOKENS))]


@pytest.mark.parametrize(("vocabulary", "least"), [(10_000, 4_800), (16_384, 8_000), (40_001, 19_000)])
def test_a_text_of_words_has_one_token_a_word(tmp_path, vocabulary, least):
    path = tmp_path / "tokenizer.json"
    synthetic_tokenizer(vocabulary).save(str(path))
    words = word_tokens(path)
    assert len(words) >= least
    assert added_tokens(path) == 0
    tokenizer, draw = Tokenizer.from_file(str(path)), random.Random(7)
    for count in (1, 2, 1000):
        drawn = draw.choices(words, k=count)
        encoding = tokenizer.encode(" ".join(drawn))
        assert len(encoding.ids) == count
        assert tokenizer.decode(encoding.ids[: count // 2]) == " ".join(drawn[: count // 2])


def sentencepiece_like(merges_across_words):
    """A tokenizer that marks spaces with ▁ and does not split at them, as Llama 2's does."""
    words = ["ab", "cd", "ef"]
    vocabulary = ["<unk>", "▁", *"abcdef", "a▁"]
    merges = [("a", "b"), ("c", "d"), ("e", "f")]
    vocabulary += words
    for word in words:
        merges.append(("▁", word))
        vocabulary.append("▁" + word)
    if merges_across_words:
        # "ab" can no longer end before a space that "▁cd" needs.
        merges.insert(0, ("b", "▁"))
        vocabulary.append("b▁")
    tokenizer = Tokenizer(models.BPE({piece: id_ for id_, piece in enumerate(vocabulary)}, merges))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def test_words_of_a_tokenizer_that_marks_spaces_otherwise(tmp_path):
    path = tmp_path / "tokenizer.json"
    sentencepiece_like(merges_across_words=False).save(str(path))
    assert word_tokens(path) == ["ab", "cd", "ef"]


def test_a_word_that_merges_with_its_neighbour_does_not_count(tmp_path):
    path = tmp_path / "tokenizer.json"
    sentencepiece_like(merges_across_words=True).save(str(path))
    words = word_tokens(path)
    assert "ab" not in words
    assert len(Tokenizer.from_file(str(path)).encode(" ".join(words * 5)).ids) == len(words) * 5


def test_a_tokenizer_without_words_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(models.BPE({"a": 0, "Ġ": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(path))
    with pytest.raises(ValueError, match="no word"):
        word_tokens(path)


def test_a_synthetic_model_is_the_same_bytes_in_every_process():
    program = (
        "import hashlib, json, sys; from leverlab.models.synthetic import synthetic_files;"
        f"files = synthetic_files({SHAPE!r}, 10000);"
        "print(hashlib.sha256(b''.join(files[name] for name in sorted(files))).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    files = synthetic_files(SHAPE, 10_000)
    assert seen == {hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()}


def test_a_synthetic_model_has_what_an_engine_reads():
    files = synthetic_files({**SHAPE, "rope_theta": 500000.0}, 10_000)
    configuration = json.loads(files["config.json"])
    assert configuration["architectures"] == ["LlamaForCausalLM"]
    assert configuration["vocab_size"] == 10_000
    assert configuration["rope_theta"] == 500000.0
    assert configuration["eos_token_id"] == SPECIAL_TOKENS.index("<|end|>")
    tokenizer = json.loads(files["tokenizer_config.json"])
    assert tokenizer["model_max_length"] == 4096
    assert "messages" in tokenizer["chat_template"]
    assert set(files) == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"hidden_size": 500}, "divide hidden_size"),
        ({"vocab_size": 32000}, "leave it out"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(change, message):
    shape = {key: value for key, value in {**SHAPE, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        synthetic_files(shape, 10_000)


def test_parameters_are_those_that_the_published_models_have():
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    }
    assert dimensions(llama).parameters == 8_030_261_248
    assert dimensions(llama).kv_bytes_per_token == 131_072
    qwen = {
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    }
    assert dimensions(qwen).parameters == 494_032_768
    mixture = {**llama, "architectures": ["MixtralForCausalLM"]}
    assert dimensions(mixture).parameters is None
    assert dimensions(mixture).kv_bytes_per_token is None


def test_preparing_a_synthetic_model_writes_its_record_and_again_changes_nothing(tmp_path):
    layout = Layout(tmp_path)
    synthetic = model(kind="synthetic", shape=SHAPE, vocabulary=10_000)
    record = prepare_model("tiny", synthetic, layout)
    known = json.loads(record.read_text())
    assert known["source"]["shape"] == SHAPE
    assert known["dimensions"]["parameters"] > 30e6
    folder = model_folder("tiny", synthetic, layout)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path != record}
    assert prepare_model("tiny", synthetic, layout) == record
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path != record}
    assert not list(folder.glob(".*"))


def test_a_model_from_a_path_is_used_where_it_is_and_its_path_is_not_recorded(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (folder / name).write_bytes(content)
    layout = Layout(tmp_path / "checkout")
    source = model(kind="path", path=str(folder), revision="v1")
    record = prepare_model("mine", source, layout)
    assert model_folder("mine", source, layout) == folder
    assert str(folder) not in record.read_text()


@pytest.mark.parametrize("missing", ["folder", "config.json", "tokenizer.json"])
def test_a_model_folder_that_is_not_whole_is_named_with_the_key(tmp_path, missing):
    folder = tmp_path / "weights"
    if missing != "folder":
        folder.mkdir()
        for name, content in synthetic_files(SHAPE, 10_000).items():
            if name != missing:
                (folder / name).write_bytes(content)
    source = model(kind="path", path=str(folder), revision="v1")
    with pytest.raises(ConfigError, match=r"mine\.source") as raised:
        prepare_model("mine", source, Layout(tmp_path))
    assert str(folder) in str(raised.value)
    assert not (tmp_path / "results").exists()


def test_a_hub_model_is_found_in_the_cache_without_a_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--something" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for name, content in synthetic_files(SHAPE, 10_000).items():
        (snapshot / name).write_bytes(content)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = model(kind="hub", id="someone/something", revision=REVISION)
    assert model_folder("hubbed", source, Layout(tmp_path)) == snapshot


def test_a_hub_model_that_was_never_fetched_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = model(kind="hub", id="someone/something", revision=REVISION)
    with pytest.raises(ConfigError, match="not in the hub's cache"):
        model_folder("hubbed", source, Layout(tmp_path))


def test_a_branch_is_no_revision():
    with pytest.raises(ConfigError, match="revision"):
        model(kind="hub", id="someone/something", revision="main")
