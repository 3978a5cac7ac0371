"""Embedded prompts: the same bytes whoever makes them, and the rows that networks get."""

import pytest
import torch
from builders import put, save_sentence_encoder

from slimctl.jobs.base.artifacts import PromptSet
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.data.prompts import Prompt, Prompts, write_prompts
from slimctl.jobs.kinds.encode_prompts import EncodePrompts
from slimctl.jobs.pairs import texts
from slimctl.jobs.pairs.texts import TextActor, TextRecipe, find_shard
from slimctl.jobs.storage.texts import PromptTexts
from slimctl.models.conditions import NO_TEXT
from slimctl.models.text import TextEncoders

pytest.importorskip("transformers", reason="the extra `text` is not installed")

TEXTS = ["a seven", "the digit three", "four five six seven eight nine one two three four five",
         "an eight", "nine"]  # fmt: skip


@pytest.fixture
def prompts(store, tmp_path):
    file = tmp_path / "prompts.jsonl"
    write_prompts(Prompts(tuple(map(Prompt, TEXTS)), 0, 0, 0, 0), file)
    handle = PromptSet(count=len(TEXTS), source="test")
    return put(store, "load_prompts-a", handle, {"prompts.jsonl": file.read_bytes()})


@pytest.fixture
def encoder(tmp_path):
    return save_sentence_encoder(tmp_path / "encoder")


@pytest.fixture
def here(monkeypatch):
    """The pool's work in this process, backwards."""

    def embed(context, recipe, actors):
        worker = TextActor(context.store, recipe, 1)
        worker.ready()
        made = {at: worker.make(at) for at in reversed(range(recipe.shards))}
        return [made[at] for at in range(recipe.shards)]

    monkeypatch.setattr(texts, "embed", embed)


@pytest.fixture
def encode(run_job, prompts, encoder, here):
    def encode(**changes):
        fields = {"prompts": "p", "encoder": str(encoder), "shard_size": 2, "length": 8} | changes
        return run_job(EncodePrompts(**fields), prompts=prompts)

    return encode


def test_rows_are_those_of_the_encoder_in_any_order(store, encode, encoder):
    made = encode()
    assert (made.count, made.tokens, made.width, made.pooled) == (5, 8, 8, 8)
    assert made.masked
    assert made.cut == 1
    rows = PromptTexts(store, made).rows(torch.tensor([4, NO_TEXT, 0, 4]))
    with pytest.warns(UserWarning, match="is cut"):
        TextEncoders(encoder, "sentence", 0, length=8).encode(TEXTS)
    wanted = TextEncoders(encoder, "sentence", 0, length=8).encode(
        [TEXTS[4], "", TEXTS[0], TEXTS[4]]
    )
    assert torch.allclose(rows.sequence, wanted.sequence, rtol=2e-3, atol=2e-3)
    assert torch.allclose(rows.pooled, wanted.pooled, atol=2e-3)
    assert torch.equal(rows.mask, wanted.mask)
    assert torch.allclose(rows.pooled.norm(dim=1), torch.ones(4), atol=2e-3)


def test_rows_on_disk_or_made_on_the_fly_are_those_in_memory(store, encode, monkeypatch):
    made, number = encode(dtype="float32"), torch.tensor([2, 3, NO_TEXT, 2])
    small = PromptTexts(store, made).rows(number)
    monkeypatch.setattr("slimctl.jobs.storage.texts.RESIDENT_BYTES", 0)
    large = PromptTexts(store, made)
    assert torch.equal(large.rows(number).sequence, small.sequence)
    assert torch.equal(large.rows(number.flip(0)).mask, small.mask.flip(0))
    late = encode(dtype="float32", encode="on_the_fly")
    assert late.shards == ()
    with pytest.warns(UserWarning, match="is cut"):
        rows = PromptTexts(store, late).rows(number)
    assert torch.allclose(rows.sequence, small.sequence, atol=1e-5)
    assert torch.allclose(rows.pooled, small.pooled, atol=1e-5)


def test_a_shard_is_written_once_and_again_where_it_was_damaged(store, encode):
    made = encode()
    recipe = TextRecipe(made.id, made.prompts, made.encoder, made.dtype, made.shard_size)
    worker = TextActor(store, recipe, 1)
    worker.ready()
    times = [store.blobs.local(file.path).stat().st_mtime_ns for file in made.shards]
    store.blobs.write(made.shards[1].path, b"x")
    assert find_shard(store, recipe, 1) is None
    assert [worker.make(at).file for at in range(3)] == list(made.shards)
    again = [store.blobs.local(file.path).stat().st_mtime_ns for file in made.shards]
    assert (again[0], again[2]) == (times[0], times[2])


def test_what_is_no_encoder_is_named(tmp_path, encoder):
    known = {"prompts": Facts(count=3, prompt_classes=0)}
    facts = EncodePrompts(prompts="p", encoder=str(encoder)).expect(known)
    assert (facts.count, facts.text_width) == (3, 8)
    with pytest.raises(MissingFile, match="there is no folder") as missing:
        EncodePrompts(prompts="p", encoder=str(tmp_path / "x")).expect(known)
    assert missing.value.facts.count == 3
    (tmp_path / "other").mkdir()
    with pytest.raises(FieldError, match="no encoder of texts"):
        EncodePrompts(prompts="p", encoder=str(tmp_path / "other")).expect(known)
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "OddPipeline"}')
    with pytest.raises(FieldError, match="is a OddPipeline"):
        EncodePrompts(prompts="p", encoder=str(tmp_path / "other")).expect(known)
