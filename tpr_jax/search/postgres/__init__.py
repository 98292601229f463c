"""A copy of an index in PostgreSQL with pgvector, which answers its queries; see `update`."""
