"""The wire format: versions, kinds of message, limits.

Pure constants and functions, shared by host and plugin: this is the one source of truth in code. It imports nothing, because every
import here is paid before a plugin is ready.

Source: docs/reference/protocol.md.
"""

__all__ = [
    "BLOB_EXTENSION",
    "BLOB_FROM_BYTES",
    "CANCEL",
    "CREDIT",
    "END",
    "HEAD_BYTES",
    "HELLO_MAX_FRAME_BYTES",
    "INITIAL_CREDIT_BYTES",
    "ITEM",
    "MAX_BLOBS",
    "MAX_CREDIT_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_ID",
    "MAX_ITEM_FRAME_BYTES",
    "MAX_KEY_CHARS",
    "MAX_METHOD_CHARS",
    "MAX_NESTING",
    "MAX_REJECT_STATUS",
    "MAX_RETRY_AFTER_S",
    "MAX_STREAMS",
    "MIN_REJECT_STATUS",
    "NOTIFICATION",
    "PROTOCOL_VERSIONS",
    "RELEASE",
    "REQUEST",
    "RESPONSE",
]

PROTOCOL_VERSIONS = (1,)

# Kinds of message: the first element of every array.
REQUEST, RESPONSE, NOTIFICATION, CANCEL, ITEM, END, CREDIT, RELEASE = range(8)

HEAD_BYTES = 4  # u32 big-endian length in front of every frame
MAX_FRAME_BYTES = 10 * 1024 * 1024
HELLO_MAX_FRAME_BYTES = 64 * 1024  # until hello is answered
MAX_ITEM_FRAME_BYTES = 64 * 1024
MAX_ID = 2**53 - 1
MAX_METHOD_CHARS = 256
MAX_KEY_CHARS = 256
MAX_NESTING = 64

INITIAL_CREDIT_BYTES = 64 * 1024
MAX_CREDIT_BYTES = 256 * 1024
MAX_STREAMS = 64

BLOB_EXTENSION = 1  # MessagePack extension type; its one byte is the blob's index in ``blobs``
BLOB_FROM_BYTES = 60 * 1024  # shorter ones travel in the frame, for less (ADR-0085); no item is too long for one because of them
MAX_BLOBS = 256  # in one message

MIN_REJECT_STATUS, MAX_REJECT_STATUS = 400, 599  # of HTTP
MAX_RETRY_AFTER_S = 365 * 86400
