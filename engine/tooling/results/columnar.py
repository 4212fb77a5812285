"""Reads Parquet that others wrote: its footer first, then a few rows at a time, always bounded.

A file of two megabytes can hold twenty million rows, or one long text that a dictionary repeats in
each of them. So the footer is asked how many rows and bytes there are, texts stay dictionaries
until their lengths have been added up, and whoever wrote other numbers into the footer is stopped
by the same sums while rows are read. The module does not know what a row means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1024  # rows
_MOST_COLUMNS = 4096  # leaves
_MOST_FOOTER = 64 << 20  # bytes of one text or of one list in the footer
_SHOWN = 200  # characters of Arrow's own words


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most rows, and bytes once unpacked, that a reader takes."""

    rows: int
    bytes: int


class BoundedParquet:
    """An open Parquet file within bounds.

    Parameters
    ----------
    data : bytes
        The whole file.
    bounds : Bounds
    where : str
        Its name, for messages.
    error : type of EngineError

    Attributes
    ----------
    columns : tuple of str
    metadata : mapping of bytes to bytes
        Of the schema.

    Raises
    ------
    EngineError
        Of the given type: it is damaged, or larger than the bounds.
    """

    def __init__(
        self, data: bytes, bounds: Bounds, where: str, error: type[EngineError] = EngineError
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._bounds, self._where, self._error = bounds, where, error
        limits = {"thrift_string_size_limit": _MOST_FOOTER,
                  "thrift_container_size_limit": _MOST_FOOTER}  # fmt: skip
        try:
            plain = pq.ParquetFile(pa.BufferReader(data), **limits)
            footer = plain.metadata
            if footer.num_columns > _MOST_COLUMNS:
                raise self._wrong(f"at most {_MOST_COLUMNS} columns", footer.num_columns)
            if footer.num_rows > bounds.rows:
                raise self._wrong(f"at most {bounds.rows} rows", footer.num_rows)
            size = sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))
            if not 0 <= size <= bounds.bytes:
                raise self._wrong(f"at most {bounds.bytes} bytes unpacked", size)
            leaves = [footer.schema.column(n) for n in range(footer.num_columns)]
            texts = [one.path for one in leaves if one.physical_type == "BYTE_ARRAY"]
            self._file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts, **limits)
            schema = plain.schema_arrow
            self.columns: tuple[str, ...] = tuple(schema.names)
            self.metadata: Mapping[bytes, bytes] = schema.metadata or {}
        except (pa.ArrowException, OSError, ValueError, TypeError) as cause:
            raise self._damaged(cause) from None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as a dictionary of Python values.

        Raises
        ------
        EngineError
            As for the class, as soon as it is seen.
        """
        import pyarrow as pa

        n_rows = n_bytes = 0
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH):
                n_rows += batch.num_rows
                n_bytes += sum(_spread(column) for column in batch.columns)
                if n_rows > self._bounds.rows:
                    raise self._wrong(f"at most {self._bounds.rows} rows", "more")
                if n_bytes > self._bounds.bytes:
                    raise self._wrong(f"at most {self._bounds.bytes} bytes unpacked", "more")
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError) as cause:
            raise self._damaged(cause) from None

    def _wrong(self, expected: str, found: object) -> EngineError:
        return self._error(f"{self._where}: expected {expected}, found {found}")

    def _damaged(self, cause: BaseException) -> EngineError:
        reason = (str(cause).strip() or type(cause).__name__).split("\n")[0][:_SHOWN]
        return self._error(
            f"{self._where}: expected a whole parquet file, found a damaged one ({reason})"
        )


def _spread(array: pa.Array) -> int:
    """Bytes of a column once each row holds its own values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        total = pc.sum(pc.take(lengths, array.indices).cast(pa.int64())).as_py()
        return int(total or 0) + 8 * len(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _spread(array.flatten()) + 8 * len(array)
    if pa.types.is_struct(kind):
        return sum(_spread(part) for part in array.flatten()) + 8 * len(array)
    return int(array.nbytes) + 8 * len(array)
