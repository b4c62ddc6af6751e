"""The model cache: a model's bytes cross the link once and are kept at the destination under their digest.

Both ends name a model by `Manifest`; the host remembers manifests in a `DigestMemo`; a destination keeps the bytes
in a `ModelCache`, which many processes use at once. Not here: the messages and connections that carry chunks.
"""

from avec.modelcache.digests import Manifest, manifest_of_bytes, manifest_of_file
from avec.modelcache.folder import Usage
from avec.modelcache.memo import DigestMemo
from avec.modelcache.store import ModelCache, PinnedModel
from avec.modelcache.upload import Upload

__all__ = [
    "DigestMemo",
    "Manifest",
    "ModelCache",
    "PinnedModel",
    "Upload",
    "Usage",
    "manifest_of_bytes",
    "manifest_of_file",
]
