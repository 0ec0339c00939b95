"""SAM 2's memory, on a stream without end.

The video predictor keeps what it has seen of every frame. Here each followed segment keeps what the
model looks back on: the memory of the frame it was learnt on and of the last six, and sixteen
pointers (section 4 and appendix D of the paper).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoInferenceCache,
    Sam2VideoInferenceSession,
)

from robot_perception.core.segmentation.promptable import Encoded
from robot_perception.core.segmentation.sam2 import PromptableSam2
from robot_perception.core.types import I32

# Frames for which a segment that nobody has found is kept in mind.
_PATIENCE = 30


class VideoMemory:
    """Follows up to `most` segments by the memory attention of SAM 2. Not thread-safe."""

    def __init__(self, model: PromptableSam2, most: int) -> None:
        self._model = model
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._frame = 0
        self._sessions: dict[int, Sam2VideoInferenceSession] = {}
        self._unseen: dict[int, int] = {}
        self._cache = Sam2VideoInferenceCache(self._model.device, self._model.device, 1)

    @property
    def ids(self) -> list[int]:
        """Of the segments that are followed."""
        return list(self._sessions)

    @torch.inference_mode()
    def predict(self, image: Encoded) -> I32:
        """Where the followed segments are in the next image: their ids (H, W), 0 where none is."""
        self._frame += 1
        self._see(image)
        found = np.zeros(image.size, np.int32)
        best = torch.zeros(image.size, device=self._model.device)
        for key, session in self._sessions.items():
            low, present = self._run(session)
            if not present:
                continue
            logits = self._model.upsample(image, low[None].float())[0]
            ahead = logits > best
            best = torch.where(ahead, logits, best)
            found[ahead.cpu().numpy()] = key
        return found

    @torch.inference_mode()
    def learn(self, labels: I32, ids: NDArray[np.integer]) -> None:
        """Go on with the segments 1..K of the last image under their ids (K,).

        While there is room, those not followed yet are learnt, the largest first; those followed
        that were not among `ids` for 30 frames are given up.
        """
        seen = set(ids.tolist())
        for key in self.ids:
            self._unseen[key] = 0 if key in seen else self._unseen[key] + 1
            if self._unseen[key] > _PATIENCE:
                del self._sessions[key], self._unseen[key]
        area = np.bincount(labels.ravel(), minlength=len(ids) + 1)[1:]
        for k in np.argsort(-area, kind="stable"):
            if len(self._sessions) >= self._most:
                break
            key = int(ids[k])
            if key not in self._sessions and area[k]:
                self._begin(key, torch.from_numpy(labels == k + 1))

    def _begin(self, key: int, mask: Tensor) -> None:
        session = Sam2VideoInferenceSession(
            inference_device=self._model.device,
            inference_state_device=self._model.device,
            dtype=torch.float32,
        )
        session.cache = self._cache
        index = session.obj_id_to_idx(key)
        session.add_mask_inputs(index, self._frame, mask[None, None])
        session.obj_with_new_inputs = [key]
        self._sessions[key], self._unseen[key] = session, 0
        self._run(session)

    def _see(self, image: Encoded) -> None:
        model = self._model.model
        maps = [feature.to(self._model.device) for feature in image.features]
        flat = [feature.flatten(2).permute(2, 0, 1) for feature in maps]
        # `encode` adds this for images without a memory.
        flat[-1] = flat[-1] - model.no_memory_embedding
        positions = [
            model.vision_encoder.neck.position_encoding(f.shape, f.device, f.dtype)
            .flatten(2)
            .permute(2, 0, 1)
            for f in maps
        ]
        self._cache.clear_all()  # type: ignore[no-untyped-call]
        self._cache.cache_vision_features(
            self._frame, {"vision_feats": flat, "vision_pos_embeds": positions}
        )

    def _run(self, session: Sam2VideoInferenceSession) -> tuple[Tensor, bool]:
        """Low-resolution logits (h, w) on the present frame, and whether the segment is there."""
        # The features of the frame are in the cache: its pixels are not looked at.
        blank = torch.zeros(1, 1, 1, 1, device=self._model.device)
        found = self._model.model(session, frame_idx=self._frame, frame=blank)
        self._forget(session)
        return found.pred_masks[0, 0], bool(found.object_score_logits[0] > 0)

    def _forget(self, session: Sam2VideoInferenceSession) -> None:
        """Drop what the model will not look back on."""
        config = self._model.model.config
        outputs = session.output_dict_per_obj[0]
        for kind in outputs.values():
            for entry in kind.values():
                entry.pop("high_res_masks", None)
                entry.pop("pred_masks", None)
        recent = outputs["non_cond_frame_outputs"]
        for frame in list(recent):
            age = self._frame - frame
            if age >= config.max_object_pointers_in_encoder:
                del recent[frame]
            elif age >= config.num_maskmem:
                recent[frame] = {"object_pointer": recent[frame]["object_pointer"]}
        session.processed_frames = {}
        session.frames_tracked_per_obj[0] = {}
        session.mask_inputs_per_obj[0] = {}
