"""Reads prompts: lines of text or JSON, a column of Parquet, captions of a webdataset or of COCO.

A prompt is a line of text: white space at its ends goes, and a run of it inside becomes a space.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slimctl.jobs.base.errors import UserError, listed

COLUMNS = ("prompt", "caption", "text")
"""Names under which prompts are looked for."""
LABEL = "label"
UTF8 = "write it in UTF-8: iconv -f latin1 -t utf-8 OLD > NEW, if it is Latin-1"


class Prompt(NamedTuple):
    """One prompt, with the class that it asks for, where that is known."""

    text: str
    label: int | None = None


@dataclass(frozen=True)
class Prompts:
    """What was read, cleaned."""

    prompts: tuple[Prompt, ...]
    empty: int
    """Prompts without a letter, which were left out."""
    cut: int
    """Prompts that were cut to the most letters."""
    dropped: int
    """Repeated prompts that were left out."""
    duplicates: int
    """Repeated prompts that were kept."""

    @property
    def classes(self) -> int:
        """Largest label + 1; 0 = there are none."""
        return max((each.label + 1 for each in self.prompts if each.label is not None), default=0)

    def remarks(self) -> list[str]:
        """What was done to the prompts, in words."""
        return [
            f"{count:,} {_one_or_more(count)} {what}"
            for count, what in (
                (self.empty, "empty and left out"),
                (self.cut, "too long and cut"),
                (self.dropped, "repeated and left out"),
                (self.duplicates, "repeated and kept"),
            )
            if count
        ]


def _one_or_more(count: int) -> str:
    return "prompt is" if count == 1 else "prompts are"


def prompt_files(source: str) -> tuple[Path, ...]:
    """The files that a path names: itself, or those of one known ending in a folder.

    Raises:
        UserError: there are none, or of several endings.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in READERS:
            known = ", ".join(READERS)
            raise UserError(source, f"ends in '{path.suffix}'", f"give one of {known}")
        return (path,)
    if not path.is_dir():
        raise UserError(source, "there is no such file", f"give one of {', '.join(READERS)}")
    files = sorted(file for file in path.iterdir() if file.suffix in READERS)
    endings = sorted({file.suffix for file in files})
    if len(endings) != 1:
        what = f"holds files of {' and '.join(endings)}" if endings else "holds no prompts"
        raise UserError(source, what, f"give a folder of files of one of {', '.join(READERS)}")
    return tuple(files)


def read_prompts(
    files: Sequence[Path], column: str | None, longest: int, most: int | None, *, keep: bool
) -> Prompts:
    """The prompts of files, in their order.

    Args:
        files: of one ending.
        column: where the prompts are, in files that name what they hold; None = the usual names.
        longest: letters; what is longer is cut.
        most: number of prompts to take; None = all.
        keep: whether repeated prompts are kept.

    Raises:
        UserError: a file is damaged, not UTF-8, or holds no prompts.
    """
    given = (each for file in files for each in READERS[file.suffix](file, column))
    found = clean(given, longest, most, keep=keep)
    if not found.prompts:
        what = "holds empty prompts only" if found.empty else "holds no prompts"
        raise UserError(str(files[0]), what, "give a file with a prompt that has a letter")
    return found


def of_templates(names: Sequence[str], templates: Sequence[str]) -> Iterator[Prompt]:
    """Every template with every name in the place of {}, labelled by the name's number."""
    for template in templates:
        for label, name in enumerate(names):
            yield Prompt(template.replace("{}", name), label)


def clean(given: Iterator[Prompt], longest: int, most: int | None, *, keep: bool) -> Prompts:
    """The prompts in the form that they are stored in; arguments as of `read_prompts`."""
    kept: list[Prompt] = []
    seen: set[Prompt] = set()
    empty = cut = dropped = duplicates = 0
    for each in given:
        if most is not None and len(kept) == most:
            break
        text = " ".join(each.text.split())
        if not text:
            empty += 1
            continue
        cut += len(text) > longest
        one = Prompt(text[:longest].rstrip(), each.label)
        if one in seen:
            if not keep:
                dropped += 1
                continue
            duplicates += 1
        seen.add(one)
        kept.append(one)
    return Prompts(tuple(kept), empty, cut, dropped, duplicates)


def _decoded(data: bytes, where: str) -> str:
    """Text of bytes.

    Raises:
        UserError: they are not UTF-8; says the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"is not UTF-8: byte 0x{data[error.start]:02x}"
        raise UserError(f"{where}:{line}", what, UTF8) from error


def _lines(file: Path, column: str | None) -> Iterator[Prompt]:
    """A prompt a line."""
    del column
    yield from (Prompt(line) for line in _decoded(file.read_bytes(), str(file)).splitlines())


def _json_lines(file: Path, column: str | None) -> Iterator[Prompt]:
    """A mapping, or a text, a line."""
    for number, line in enumerate(_decoded(file.read_bytes(), str(file)).split("\n"), 1):
        if line.strip():
            where = f"{file}:{number}"
            yield _of_item(_parsed(line, where), column, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(where, f"is no JSON: {error}", 'write {"prompt": "..."}') from error


def _of_item(item: Any, column: str | None, where: str) -> Prompt:
    if isinstance(item, str):
        return Prompt(item)
    names = (column,) if column else COLUMNS
    known = item if isinstance(item, Mapping) else {}
    text = next((known[name] for name in names if name in known), None)
    if not isinstance(text, str):
        what = f"has no text under {' or '.join(names)}"
        held = f"; it has {listed(known, len(known))}" if known else ""
        raise UserError(where, what + held, "name the field with column")
    label = known.get(LABEL)
    if label is not None and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
        raise UserError(where, f"has the label {label!r}", "give whole numbers from 0, or none")
    return Prompt(text, label)


def _parquet(file: Path, column: str | None) -> Iterator[Prompt]:
    """A column of texts, and one of labels where there is one."""
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            wanted = column or next((name for name in COLUMNS if name in names), None)
            if wanted not in names:
                what = f"has no column {column or ' or '.join(COLUMNS)}; it has "
                raise UserError(str(file), what + listed(names, len(names)), "name it with column")
            labelled = LABEL in names and wanted != LABEL
            columns = [wanted, LABEL] if labelled else [wanted]
            row = 0
            for batch in opened.iter_batches(columns=columns):
                for item in batch.to_pylist():
                    text = item[wanted]
                    item = {"text": "" if text is None else text, LABEL: item.get(LABEL)}
                    yield _of_item(item, "text", f"{file}: row {row}")
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"cannot be read as Parquet: {error}"
        raise UserError(str(file), what, "write it again, with texts in UTF-8") from error


def _webdataset(file: Path, column: str | None) -> Iterator[Prompt]:
    """Members `*.txt`, a caption each; of an archive without any the `*.json`."""
    try:
        with tarfile.open(file) as archive:
            members = [each for each in archive.getmembers() if each.isfile()]
            texts = [each for each in members if each.name.endswith(".txt")]
            for member in texts or [each for each in members if each.name.endswith(".json")]:
                opened = archive.extractfile(member)
                assert opened is not None, "it is a file"
                where = f"{file}/{member.name}"
                text = _decoded(opened.read(), where)
                if member.name.endswith(".txt"):
                    yield Prompt(text)
                else:
                    yield _of_item(_parsed(text, where), column, where)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(str(file), f"cannot be read as tar: {error}", "copy it again") from error


def _coco(file: Path, column: str | None) -> Iterator[Prompt]:
    """The captions of COCO's annotations, in the order of the file."""
    held = _parsed(_decoded(file.read_bytes(), str(file)), str(file))
    items = held.get("annotations") if isinstance(held, Mapping) else held
    if not isinstance(items, list):
        what = "has no list `annotations`"
        raise UserError(str(file), what, "give COCO's captions_*.json, or a list of prompts")
    for number, item in enumerate(items):
        yield _of_item(item, column, f"{file}: annotation {number}")


READERS: Mapping[str, Callable[[Path, str | None], Iterator[Prompt]]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".tar": _webdataset,
    ".json": _coco,
}
"""Ending of a file -> who reads it."""


def write_prompts(prompts: Prompts, file: Path) -> None:
    """Writes prompts as lines of JSON."""
    with file.open("w", encoding="utf-8") as lines:
        for each in prompts.prompts:
            item = {"prompt": each.text} | ({} if each.label is None else {LABEL: each.label})
            lines.write(json.dumps(item, ensure_ascii=False) + "\n")


def load_prompts(file: Path) -> tuple[Prompt, ...]:
    """What `write_prompts` wrote."""
    with file.open(encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    return tuple(Prompt(item["prompt"], item.get(LABEL)) for item in items)
