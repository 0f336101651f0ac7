-- The SQL of libraries and their versions.

-- name: libraries
-- Libraries of a vendor ($1) that a search ($2) finds, by their id or the words of their name; each NULL: any. The most popular first.
SELECT id, name, vendor, repo_url, docs_url, default_version, popularity_score, total_snippets, total_tokens, last_crawled_at, metadata, updated_at
FROM libraries
WHERE ($1::text IS NULL OR vendor = $1)
  AND ($2::text IS NULL OR to_tsvector('english', name) @@ plainto_tsquery('english', $2) OR strpos(lower(id), lower($2)) > 0)
  AND ($3::integer IS NULL OR (-popularity_score, id) > (-$3, $4))
ORDER BY -popularity_score, id LIMIT $5 OFFSET $6;

-- name: library
-- One library, by its id ($1), or the same with a slash before it.
SELECT id, name, vendor, repo_url, docs_url, default_version, popularity_score, total_snippets, total_tokens, last_crawled_at, metadata, updated_at
FROM libraries WHERE id IN ($1, '/' || $1) ORDER BY id = $1 DESC LIMIT 1;

-- name: versions
-- The versions of a library ($1), the latest release first.
SELECT version, release_date, is_latest, docs_snapshot_url FROM library_versions WHERE library_id = $1
ORDER BY is_latest DESC, release_date DESC NULLS LAST, version;

-- name: put_library
-- Makes a library, or puts this in the place of what was known of it, unless it is the same.
INSERT INTO libraries AS l (id, name, vendor, repo_url, docs_url, default_version, popularity_score, total_snippets, total_tokens, last_crawled_at, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, vendor = excluded.vendor, repo_url = excluded.repo_url, docs_url = excluded.docs_url,
    default_version = excluded.default_version, popularity_score = excluded.popularity_score, total_snippets = excluded.total_snippets,
    total_tokens = excluded.total_tokens, last_crawled_at = excluded.last_crawled_at, metadata = excluded.metadata
WHERE (l.name, l.vendor, l.repo_url, l.docs_url, l.default_version, l.popularity_score, l.total_snippets, l.total_tokens, l.last_crawled_at, l.metadata)
   IS DISTINCT FROM (excluded.name, excluded.vendor, excluded.repo_url, excluded.docs_url, excluded.default_version, excluded.popularity_score,
                     excluded.total_snippets, excluded.total_tokens, excluded.last_crawled_at, excluded.metadata)
RETURNING xmax = 0 AS is_new;

-- name: only_latest
-- Lets only one version ($2) of a library ($1) be the latest.
UPDATE library_versions SET is_latest = false WHERE library_id = $1 AND version <> $2 AND is_latest;

-- name: put_version
-- Makes a version of a library, or puts this in the place of what was known of it, unless it is the same.
INSERT INTO library_versions AS v (library_id, version, release_date, is_latest, docs_snapshot_url) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (library_id, version) DO UPDATE SET
    release_date = excluded.release_date, is_latest = excluded.is_latest, docs_snapshot_url = excluded.docs_snapshot_url
WHERE (v.release_date, v.is_latest, v.docs_snapshot_url) IS DISTINCT FROM (excluded.release_date, excluded.is_latest, excluded.docs_snapshot_url)
RETURNING xmax = 0 AS is_new;
