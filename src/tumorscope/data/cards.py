"""Data cards: name, origin, licence and counts of the sets that tumorscope knows. Plain data, read by CLI and docs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One data set. handle : on Kaggle with its pinned version where it can be fetched, else empty.

    digest : of its catalogue (`data.catalogue.digest_of`), which runs and packages know it by; "" where it has many
    """

    name: str
    title: str
    licence: str
    url: str
    slices: str
    handle: str = ""
    digest: str = ""


CARDS = {
    card.name: card
    for card in (
        Card(
            name="nickparvar",
            title="Brain Tumor MRI Dataset, M. Nickparvar (Kaggle), version 1",
            licence="CC0 1.0 as far as is known",
            url="https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset",
            slices="7,023: glioma, meningioma, pituitary tumour, no tumour; 5,712 training and 1,311 test",
            handle="masoudnickparvar/brain-tumor-mri-dataset/versions/1",
            digest="a5ca1826a06bf39b",
        ),
        Card(
            name="figshare",
            title="Brain tumor dataset, J. Cheng (figshare 1512427), T1-weighted contrast-enhanced",
            licence="CC BY 4.0",
            url="https://figshare.com/articles/dataset/brain_tumor_dataset/1512427",
            slices="3,064 of 233 patients: meningioma 708, glioma 1,426, pituitary tumour 930; with masks",
        ),
        Card(
            name="phantom",
            title="Slices drawn by tumorscope; not patients",
            licence="Apache-2.0",
            url="",
            slices="480 of 80 drawn patients, three planes each, with masks",
        ),
    )
}
