"""Edit pictures and samples by their layout: local edits, two looks in one picture, films between layouts."""

from sis_rearrange.editing.local import Edited, edit
from sis_rearrange.editing.looks import Editor, Look
from sis_rearrange.editing.masks import Change, own_masks, read_change
from sis_rearrange.editing.mixing import exemplar, mix_layers, transfer
from sis_rearrange.editing.morphing import check_film, morph, morph_latents, write_film

__all__ = [
    "Change",
    "Edited",
    "Editor",
    "Look",
    "check_film",
    "edit",
    "exemplar",
    "mix_layers",
    "morph",
    "morph_latents",
    "own_masks",
    "read_change",
    "transfer",
    "write_film",
]
