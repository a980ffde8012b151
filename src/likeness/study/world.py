"""What the embedded model cannot know, said before long work: photographs of people, words outside its grammar."""

from __future__ import annotations

from likeness.config import Subject, Train
from likeness.errors import InputError
from likeness.study.place import EMBEDDED_PHOTOS


def world_notices(train: Train, subjects: list[Subject]) -> list[str]:
    """Say what of these subjects the embedded model cannot learn; nothing for other models."""
    if train.model.source != "embedded":
        return []
    from likeness.paperdoll.captions import unknown_words

    notices = []
    for subject in subjects:
        if not subject.photos.startswith(EMBEDDED_PHOTOS):
            notices.append(
                f"model=paperdoll draws paper dolls only and cannot learn a real face; for the photos in "
                f"{subject.photos} use model=sd15."
            )
        words = set(unknown_words(subject.instance_prompt)) - set(unknown_words(subject.identifier))
        if words:
            notices.append(f"the embedded model was never shown: {', '.join(sorted(words))}; model=sd15 knows more.")
    return notices


def refuse_known_identifiers(train: Train, subjects: list[Subject]) -> None:
    """Refuse an identifier that the embedded model was trained to draw as something else."""
    if train.model.source != "embedded":
        return
    from likeness.paperdoll.captions import VOCABULARY

    for subject in subjects:
        if subject.identifier.lower() in VOCABULARY:
            raise InputError(
                f"identifier {subject.identifier!r} is a common word of the embedded model's language; "
                "use a word it has never seen, such as zwx."
            )
