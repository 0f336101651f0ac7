-- name: read
-- The present epoch's position of one partition, without a lock: where to seek to.
SELECT epoch, start_offset, next_offset FROM {table}
WHERE cluster = $1 AND topic = $2 AND partition = $3
ORDER BY epoch DESC LIMIT 1;

-- name: lock
-- The same row, taken for this transaction. Two owners of one partition (a zombie and its successor) are serialised
-- here: the second waits, then sees the position that the first committed, and drops what is below it.
SELECT epoch, start_offset, next_offset FROM {table}
WHERE cluster = $1 AND topic = $2 AND partition = $3
ORDER BY epoch DESC LIMIT 1
FOR UPDATE;

-- name: create
-- A partition that was never read starts at $4. Whoever comes second finds the row.
INSERT INTO {table} (cluster, topic, partition, epoch, start_offset, next_offset)
VALUES ($1, $2, $3, 0, $4, $4)
ON CONFLICT DO NOTHING;
