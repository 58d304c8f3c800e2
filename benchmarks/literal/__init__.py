"""DatLSTM and SwinLSTM-D as their articles describe them: what `benchmarks.models` measures the product against.

Each step follows the published definition one to one, as one would first write it in PyTorch, neither slowed down nor
optimised: convolutions on images where the article has convolutions, all displacements of (query, key) pairs formed.
Modules carry the names of the published state dicts; what those models carry and never run is left out. SwinLSTM:
Tang et al. 2023 (ICCV); deformable attention: Xia et al. 2022 (CVPR).
"""

from benchmarks.literal.network import DATLSTM, SWINLSTM_D, EncoderDecoder, Kind, Sizes

PUBLISHED: dict[str, tuple[Kind, Sizes]] = {
    "datlstm": (DATLSTM, Sizes()),
    "swinlstm-d": (SWINLSTM_D, Sizes(heads=(4, 8))),
}
"""The renderings in their published sizes, by the name of the product's architecture."""

__all__ = ["DATLSTM", "PUBLISHED", "SWINLSTM_D", "EncoderDecoder", "Kind", "Sizes"]
