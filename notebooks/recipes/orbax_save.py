"""Images and fits are pytrees of arrays: Orbax keeps them, and pickle does."""

import pickle
from pathlib import Path

import galaxy
import jax
import orbax.checkpoint as ocp


def there_and_back(tree, folder):
    """A tree written by Orbax and read again, in the structure of the original."""
    path = Path(folder).resolve() / "checkpoint"
    leaves, structure = jax.tree.flatten(tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, leaves)
        checkpointer.wait_until_finished()
        leaves = checkpointer.restore(path, leaves)
    return jax.tree.unflatten(structure, leaves)


def pickled(tree):
    """A tree pickled and read again."""
    return pickle.loads(pickle.dumps(tree))


if __name__ == "__main__":
    image = galaxy.observe()
    print(there_and_back((image, galaxy.fit(image)), "checkpoints")[1].params)
