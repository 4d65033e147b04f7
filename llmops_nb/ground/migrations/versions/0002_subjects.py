"Data subjects and what they asked for, kept receipts and mirrors of releases, and indexes for thousands of them."
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    document = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.create_table("subjects",
    sa.Column("subject", sa.String(length=64), nullable=False),
    sa.Column("restricted", sa.String(length=40), nullable=False),
    sa.Column("held", sa.String(length=40), nullable=False),
    sa.Column("why", sa.Text(), nullable=False),
    sa.Column("erased", sa.String(length=40), nullable=False),
    sa.Column("changed", sa.String(length=40), nullable=False),
    sa.Column("changed_by", sa.String(length=100), nullable=False),
    sa.PrimaryKeyConstraint("subject")
    )
    op.create_table("erasures",
    sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
    sa.Column("subject", sa.String(length=64), nullable=False),
    sa.Column("digest", sa.String(length=64), nullable=False),
    sa.Column("envelope", document, nullable=False),
    sa.Column("created", sa.String(length=40), nullable=False),
    sa.PrimaryKeyConstraint("id"),
    sa.UniqueConstraint("digest")
    )
    op.create_index(op.f("ix_erasures_subject"), "erasures", ["subject"], unique=False)
    op.create_table("affected",
    sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
    sa.Column("erasure", sa.Integer(), nullable=False),
    sa.Column("kind", sa.String(length=40), nullable=False),
    sa.Column("name", sa.String(length=200), nullable=False),
    sa.Column("digest", sa.String(length=64), nullable=False),
    sa.Column("run", sa.String(length=100), nullable=False),
    sa.Column("status", sa.String(length=20), nullable=False),
    sa.Column("decision", document, nullable=True),
    sa.Column("changed", sa.String(length=40), nullable=False),
    sa.ForeignKeyConstraint(["erasure"], ["erasures.id"], ),
    sa.PrimaryKeyConstraint("id")
    )
    op.create_index(op.f("ix_affected_digest"), "affected", ["digest"], unique=False)
    op.create_index(op.f("ix_affected_erasure"), "affected", ["erasure"], unique=False)
    op.create_table("deletions",
    sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
    sa.Column("place", sa.String(length=40), nullable=False),
    sa.Column("address", sa.String(length=300), nullable=False),
    sa.Column("status", sa.String(length=20), nullable=False),
    sa.Column("created", sa.String(length=40), nullable=False),
    sa.Column("checked", sa.String(length=40), nullable=False),
    sa.Column("error", sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint("id")
    )
    op.create_index(op.f("ix_deletions_status"), "deletions", ["status"], unique=False)
    op.create_table("release_mirrors",
    sa.Column("digest", sa.String(length=64), nullable=False),
    sa.Column("run_id", sa.String(length=64), nullable=False),
    sa.Column("state", sa.String(length=10), nullable=False),
    sa.Column("told", document, nullable=False),
    sa.Column("error", sa.Text(), nullable=False, server_default=""),
    sa.PrimaryKeyConstraint("digest")
    )
    op.add_column("releases", sa.Column("receipts", sa.String(length=64), nullable=False, server_default=""))
    op.create_index("ix_releases_name_version", "releases", ["name", "version"], unique=False)
    op.create_index(op.f("ix_aliases_digest"), "aliases", ["digest"], unique=False)
    op.create_index("ix_releases_name_created", "releases", ["name", "created"], unique=False)
    for table in ("feedback", "requests"):
        op.add_column(table, sa.Column("subject", sa.String(length=64), nullable=False, server_default=""))
        op.create_index(op.f(f"ix_{table}_subject"), table, ["subject"], unique=False)
