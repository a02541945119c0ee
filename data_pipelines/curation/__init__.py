"""From raw video and robot logs to curated, captioned clips: what is kept, what is not, and why, clip by clip.

The stages are commands of `kairos data` and functions here, each resumable: `ingest` (shots), `curate` (scores, near
duplicates, taxonomy, decisions), `caption`, `pack`. docs/curation.md explains them.
"""
