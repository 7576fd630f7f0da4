"""The processes of a divided stream besides the first: they do to the latents what the first one's engine does."""

from collections.abc import Callable

from gwm.condition.inputs import Conditions
from serve.engine import Engine
from serve.parallel.ranks import Order, Ranks, tensors_of, with_tensors


def follow(engine: Engine) -> None:
    """Carry out the first process's orders, until its engine is closed."""
    assert engine.ranks is not None, "one of several processes"
    _follow(engine.ranks, [engine], lambda ranks: engine)


def follow_streams(ranks: Ranks, make: Callable[[Ranks], Engine]) -> None:
    """Carry out orders for the engines of several streams, each of which is made when the first process makes its own;
    until one of these is closed."""
    _follow(ranks, [], make)


def _follow(ranks: Ranks, engines: list[Engine], make: Callable[[Ranks], Engine]) -> None:
    while (received := ranks.next_order())[0] is not Order.STOP:
        order, stream, value = received
        if order is Order.MAKE:
            engines.append(make(ranks.of_stream(stream)))
        else:
            _carry_out(engines[stream], ranks, order, value)


def _carry_out(engine: Engine, ranks: Ranks, order: Order, value: int) -> None:
    prompt = engine.prompt
    if order is Order.START:
        reference = engine.rollout.reference.new_empty(1, 1, *engine.rollout.picture_shape[2:])
        latent, *text = ranks.receive([reference, *tensors_of(prompt.beside(Conditions()))])
        engine.seed, prompt.text = value, text[0] if text else None
        engine.begin(latent)
    elif order is Order.TEXT:
        (prompt.text,) = ranks.receive(tensors_of(prompt.beside(Conditions())))
    elif order is Order.CHUNK:
        chunk = engine.nothing_given().of_chunk()
        engine.denoise(prompt.beside(with_tensors(chunk, ranks.receive(tensors_of(chunk)))))
    else:
        engine.undo.rewind_latents(value)
