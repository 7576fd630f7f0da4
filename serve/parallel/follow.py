"""The processes of a divided stream besides the first: they do to the latents what the first one's engine does."""

from gwm.condition.inputs import Conditions
from serve.engine import Engine
from serve.parallel.ranks import Order, tensors_of, with_tensors


def follow(engine: Engine) -> None:
    """Carry out the first process's orders, until its engine is closed."""
    ranks, prompt = engine.ranks, engine.prompt
    assert ranks is not None, "one of several processes"
    chunk = engine.nothing_given().of_chunk()
    reference = engine.rollout.reference.new_empty(1, 1, *engine.rollout.picture_shape[2:])
    while (order := ranks.next_order())[0] is not Order.STOP:
        if order[0] is Order.START:
            latent, *text = ranks.receive([reference, *tensors_of(prompt.beside(Conditions()))])
            engine.seed, prompt.text = order[1], text[0] if text else None
            engine.begin(latent)
        elif order[0] is Order.TEXT:
            (prompt.text,) = ranks.receive(tensors_of(prompt.beside(Conditions())))
        elif order[0] is Order.CHUNK:
            given = with_tensors(chunk, ranks.receive(tensors_of(chunk)))
            engine.denoise(prompt.beside(given))
        else:
            engine.undo.rewind_latents(order[1])
