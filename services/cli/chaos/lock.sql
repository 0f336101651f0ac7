-- name: hold
-- Holds a position until the transaction ends: whoever reads it waits.
SELECT next_offset FROM {table} WHERE partition = $1 ORDER BY epoch DESC LIMIT 1 FOR UPDATE;
