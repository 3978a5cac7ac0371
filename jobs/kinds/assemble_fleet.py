"""Puts students of the parts of one partition behind a router."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator, Partition
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec


class AssembleFleet(JobSpec):
    """A fleet: each request goes to the one student that serves its label.

    Nothing is copied: the fleet names its students, and they are kept as they are.
    """

    partition: Ref[Partition]
    """The split that the students were made for."""
    students: tuple[Ref[Flow | Generator], ...] = Field(min_length=1)
    """One student of each part, in any order: all flows, or all one-step generators."""

    def run(self, context: JobContext) -> Fleet:
        partition = context.input(self.partition)
        students = [context.input(ref) for ref in self.students]
        self._check_alike(context, students, partition)
        members = tuple(sorted(students, key=lambda each: each.part or 0))
        first = members[0]
        columns = zip(*(each.label_counts for each in members), strict=True)
        sizes = [each.parameters for each in members]
        return Fleet(
            image=first.image,
            members=members,
            subsets=partition.subsets,
            partition=partition.id,
            label_counts=tuple(sum(column) for column in columns),
            flip_valid=all(each.flip_valid for each in members),
            t_start=first.t_start,
            parameters=max(sizes),
            parameters_total=sum(sizes),
            autoencoder=first.autoencoder,
        )

    def _check_parts(self, parts: Sequence[int | None], count: int | None) -> None:
        """Checks that every part has one student.

        Raises:
            FieldError: a part has none or two, or a student serves all labels.
        """
        names = [ref.job for ref in self.students]
        whole = [name for name, part in zip(names, parts, strict=True) if part is None]
        if whole:
            what = f"'{whole[0]}' serves all labels, no part of '{self.partition.job}'"
            raise FieldError("students", what, "give it partition and part")
        twice = [part for part, number in Counter(parts).items() if number > 1]
        if twice:
            both = " and ".join(
                f"'{name}'" for name, part in zip(names, parts, strict=True) if part == twice[0]
            )
            what = f"{both} serve the same part {twice[0]} of '{self.partition.job}'"
            raise FieldError("students", what, "name one student of each part")
        missing = sorted(set(range(count or 0)) - set(parts))
        if missing:
            what = f"no student serves part {missing[0]} of '{self.partition.job}'"
            raise FieldError("students", what, f"name a student of each of the {count} parts")

    def _check_alike(
        self, context: JobContext, students: Sequence[Flow | Generator], partition: Partition
    ) -> None:
        where, first = f"job '{context.job}'", students[0]
        for ref, each in zip(self.students, students, strict=True):
            if each.partition != partition.id:
                raise UserError(
                    where,
                    f"'{ref.job}' was made for another partition than '{self.partition.job}'",
                    "name the partition that its students were made for",
                )
            if (type(each), each.image, each.t_start) != (type(first), first.image, first.t_start):
                raise UserError(
                    where,
                    f"'{ref.job}' and '{self.students[0].job}' differ in kind, images or start",
                    "make all students in the same way",
                )

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        known = [inputs.get(f"students.{at}", Facts()) for at in range(len(self.students))]
        made = {facts.made for facts in known if facts.made}
        if len(made) > 1:
            what = f"the students are of two kinds: {' and '.join(sorted(made))}"
            raise FieldError("students", what, "take all flows, or all one-step generators")
        if all(facts.image is not None for facts in known):
            self._check_parts([facts.part for facts in known], inputs["partition"].parts)
        flip_valid = all(facts.flip_valid for facts in known)
        one_step = next(iter(made)) == Generator.__name__ if made else None
        return Facts(
            image=known[0].image,
            flip_valid=flip_valid,
            flow=known[0].flow,
            network=known[0].network,
            one_step=one_step,
            latents=known[0].latents,
        )
