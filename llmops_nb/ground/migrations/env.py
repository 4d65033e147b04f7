"Alembic's environment: the connection is handed over by llmops_nb.ground.ledger.migrate."
from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
