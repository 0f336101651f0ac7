-- name: known_batches
-- Which of some batches exist. Ingest commits a batch before anybody can hear of it.
SELECT batch_id FROM usage_batches WHERE batch_id = ANY($1::uuid[]);

-- name: advance
-- Moves the position past the slice, with the account of its offsets: the table's CHECK refuses a sum that is off.
-- The old position is compared once more: nobody can have moved it, since its row is locked.
UPDATE {table}
SET next_offset = $6, applied = applied + $7, duplicates = duplicates + $8, orphaned = orphaned + $9, gaps = gaps + $10,
    updated_at = now()
WHERE cluster = $1 AND topic = $2 AND partition = $3 AND epoch = $4 AND next_offset = $5;
