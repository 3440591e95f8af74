"""The four classes: order, display names and the folder names they go by. Plain data, read by everything else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One class: `name` as in folders and files, `display` for people, `aliases` seen in archives.

    code : SNOMED CT concept of the disorder (393564001 Glioma, 302820008 Intracranial meningioma, 127024001 Neoplasm of
    pituitary gland); "" for none
    """

    name: str
    display: str
    code: str
    aliases: tuple[str, ...] = ()


#: In the order of the Kaggle folders; index in this tuple = integer label everywhere.
LABELS = (
    Label("glioma", "Glioma", "393564001", ("glioma_tumor", "gliomas")),
    Label("meningioma", "Meningioma", "302820008", ("meningioma_tumor", "meningiomas")),
    Label("notumor", "No tumour", "", ("no_tumor", "no", "healthy", "normal", "no_tumour", "notumour")),
    Label("pituitary", "Pituitary tumour", "127024001", ("pituitary_tumor", "pituitary_tumour")),
)
CLASSES = tuple(label.name for label in LABELS)
INDEX = {name: i for i, name in enumerate(CLASSES)}
NO_TUMOUR = INDEX["notumor"]

#: Folder name (lower case) to class name, aliases included.
BY_FOLDER = {alias: label.name for label in LABELS for alias in (label.name, *label.aliases)}

#: A tumour of a kind that is not known, and the folders it goes by; for scoring alone, nothing is trained on it.
TUMOUR = "tumour"
TUMOUR_FOLDERS = ("tumour", "tumor", "yes", "tumours", "tumors", "abnormal")
