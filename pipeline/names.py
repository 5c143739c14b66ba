"""Who is seen by which camera, as the names of image files say it."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dgrl.errors import InputError

_SUFFIX = r"\.(?i:jpe?g|png|bmp|webp|tiff?|gif|ppm)"
_PLAIN = "[^/_. -]+"
_LABELLED = rf"(?:(?i:camera|cam|person|pid|id)[_ -])?{_PLAIN}"  # cam_1 is one field
_PERSON_LABEL = re.compile(r"(?i)(?:person|pid|id|p)[_ -]?\d+")
_CAMERA_LABEL = re.compile(r"(?i)(?:camera[_ -]?\w+|cam[_ -]?\w+|c\d+)")
_PARTS = {"train", "training", "val", "valid", "validation", "test", "query", "gallery", "probe"}
_SUBSETS = {"train", "test", "query"}  # of these the split knows what they mean
_IMAGE = re.compile(rf".*{_SUFFIX}")

# Names in which the camera is no field of its own: 0002_c1s1_000451_03.jpg (Market-1501), p1c2_3.png
_CONVENTIONS = (
    rf"(?:.*/)?(?P<person_id>\d+)_(?P<camera_id>c\d+)s\d+_[^/]*{_SUFFIX}",
    rf"(?:.*/)?(?P<person_id>(?i:p|person|id)\d+)(?P<camera_id>(?i:c|cam)\d+)(?:[_. -][^/]*)?{_SUFFIX}",
)
_HELP = (
    "name folders or files so that one field is the person and one the camera (anna/gate_1.jpg, "
    "p01_cam2_001.jpg, gate/p01-1.png), or give --pattern or --table"
)


@dataclass(frozen=True)
class _Slot:
    """A field of the names: a folder, or one of the parts of a file's name.

    Attributes:
        place: from the left, folders first.
        is_folder: whether it is a folder.
        values: of each image.
    """

    place: int
    is_folder: bool
    values: tuple[str, ...]

    @property
    def distinct(self) -> set[str]:
        return set(self.values)

    @property
    def are_words(self) -> bool:
        return not any(re.search(r"\d", value) for value in self.distinct)

    @property
    def are_numbers(self) -> bool:
        return all(value.isdecimal() for value in self.distinct)

    def are(self, label: re.Pattern[str]) -> bool:
        return all(label.fullmatch(value) for value in self.distinct)


def find_pattern(names: Sequence[str]) -> str:
    """A pattern with the groups person_id and camera_id.

    Also with role where a field is ``hr`` or ``lr``, and with subset where one is ``train`` or ``test``.

    Of the fields of the names, folders and what stands between ``_``, ``-``, ``.`` and spaces, it takes the
    two of which one tells persons and one cameras: at least two of each, and at least half of the persons
    seen by two cameras. Labels (``person3``, ``cam_1``) tell most, then words, then folders, then the order.

    Args:
        names: paths below a folder, with ``/``.

    Raises:
        InputError: if there are no images, or no two such fields.
    """
    images = [name for name in names if _IMAGE.fullmatch(name)]
    if not images:
        held = f"its first file is {names[0]!r}" if names else "it is empty"
        raise InputError(f"the folder has no images ({held}); give the one that has")
    for pattern in _CONVENTIONS:
        matches = [match for name in images if (match := re.fullmatch(pattern, name))]
        found = [(match["person_id"], match["camera_id"]) for match in matches]
        if 2 * len(found) > len(images) and _shared(found) >= 0.5:
            return pattern
    shape, _ = Counter(map(_shape, images)).most_common(1)[0]
    folders = shape[0]
    rows = [_fields(name) for name in images if _shape(name) == shape]
    slots = [_Slot(place, place < folders, values) for place, values in enumerate(zip(*rows, strict=True))]
    role = next((slot for slot in slots if slot.distinct == {"hr", "lr"}), None)
    part = next((slot for slot in slots if slot.distinct <= _PARTS), None)
    subset = part if part and len(part.distinct) > 1 and part.distinct <= _SUBSETS else None
    slots = [slot for slot in slots if slot is not part]
    pairs = list(_pairs([slot for slot in slots if slot is not role] if role else slots))
    if role and not pairs:  # the folders hr and lr are the cameras
        pairs, role = list(_pairs(slots)), None
    if not pairs:
        raise InputError(
            f"no two fields of the {len(images)} images' names tell persons who are each seen by two cameras "
            f"(the first is {images[0]!r}); {_HELP}"
        )
    _, person, camera = max(pairs, key=lambda pair: pair[0])
    groups = {person.place: "person_id", camera.place: "camera_id"}
    groups |= {slot.place: name for slot, name in ((role, "role"), (subset, "subset")) if slot}
    return _pattern(groups, folders, rows)


def _shape(name: str) -> tuple[int, int]:
    """The numbers of folders and of fields in all."""
    return name.count("/"), len(_fields(name))


def _fields(name: str) -> list[str]:
    *folders, file = name.split("/")
    return [*folders, *re.findall(_LABELLED, re.sub(f"{_SUFFIX}$", "", file))]


def _pairs(slots: Sequence[_Slot]) -> Iterator[tuple[tuple[float, ...], _Slot, _Slot]]:
    """Persons and cameras that there may be, each with how likely."""
    for person in slots:
        for camera in slots:
            if person is camera or min(len(person.distinct), len(camera.distinct)) < 2:
                continue
            if camera is slots[-1] and not camera.is_folder and camera.are_numbers:
                continue  # anna_1.jpg, anna_2.jpg: they number the images
            labelled = 4 * person.are(_PERSON_LABEL) + 4 * camera.are(_CAMERA_LABEL)
            if len(person.distinct) < len(camera.distinct) and not labelled:
                continue  # the other way round
            if any(_tells_more(other, person) for other in slots[:-1] if other is not camera):
                continue  # a day, or the number of an image, beside names of persons
            shared = _shared(zip(person.values, camera.values, strict=True))
            if shared < 0.5 or person.are(_CAMERA_LABEL) or camera.are(_PERSON_LABEL):
                continue
            likely = labelled + person.are_words + 2 * camera.are_words + person.is_folder + camera.is_folder
            yield (likely, shared, len(person.distinct), -person.place, -camera.place), person, camera


def _tells_more(other: _Slot, person: _Slot) -> bool:
    """Whether another field looks like persons, and has more of them."""
    return (other.are_words or other.are(_PERSON_LABEL)) and len(other.distinct) > len(person.distinct)


def _shared(found: Iterable[tuple[str, str]]) -> float:
    """The share of the persons whom two cameras or more have seen."""
    cameras: dict[str, set[str]] = defaultdict(set)
    for person, camera in found:
        cameras[person].add(camera)
    return sum(len(seen) > 1 for seen in cameras.values()) / len(cameras)


def _pattern(groups: dict[int, str], folders: int, rows: Sequence[Sequence[str]]) -> str:
    """The regular expression of whole paths in which the fields at these places are groups."""
    fields = len(rows[0])
    is_labelled = any(re.search("[_. -]", field) for row in rows for field in row[folders:])
    plain = _LABELLED if is_labelled else _PLAIN
    parts = []
    for place in range(max(*groups, folders - 1) + 1):
        field = "[^/]+" if place < folders else plain
        parts.append(f"(?P<{groups[place]}>{field})" if place in groups else field)
    file = "[_. -]+".join(parts[folders:])
    if not file:
        file = "[^/]*"
    elif len(parts) < fields:
        file += "[_. -][^/]*"
    return "/".join([*parts[:folders], file]) + _SUFFIX
