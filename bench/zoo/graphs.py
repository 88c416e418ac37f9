"""Programs with Jraph: graphs as arrays of edges."""

import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax

import samples
import steps


def _clubs():
    """One graph of 100 nodes in four clubs, as Jraph's karate example has one of 34 in two."""
    rng = np.random.default_rng(0)
    club = rng.integers(0, 4, 100)
    pair = rng.random((100, 100)) < np.where(club[:, None] == club, 0.15, 0.01)
    senders, receivers = (i.astype(np.int32) for i in np.nonzero(pair | np.eye(100, dtype=bool)))
    return club, senders, receivers


def gcn():
    """Jraph's karate example: a graph convolution over nodes of one graph, one label known a club."""
    club, senders, receivers = _clubs()
    graph = jraph.GraphsTuple(
        nodes=jnp.eye(100), edges=None, senders=senders, receivers=receivers, globals=None,
        n_node=np.array([100]), n_edge=np.array([len(senders)]),
    )

    def forward(graph):
        graph = jraph.GraphConvolution(hk.Linear(20), symmetric_normalization=True)(graph)
        graph = graph._replace(nodes=jax.nn.relu(graph.nodes))
        return jraph.GraphConvolution(hk.Linear(4))(graph).nodes

    net = hk.without_apply_rng(hk.transform(forward))
    params = net.init(jax.random.key(0), graph)
    known = np.array([np.argmax(club == i) for i in range(4)])

    def loss_of(params):
        log_p = jax.nn.log_softmax(net.apply(params, graph))
        return -jnp.mean(log_p[known, np.arange(4)])

    optimiser = optax.adam(1e-2)
    return (params, optimiser.init(params)), steps.of_loss(optimiser, loss_of), samples.always()


def gat():
    """Graph attention: a softmax over the edges that meet in a node."""
    club, senders, receivers = _clubs()
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(np.random.default_rng(1).standard_normal((100, 16)), jnp.float32), edges=None,
        senders=senders, receivers=receivers, globals=None, n_node=np.array([100]), n_edge=np.array([len(senders)]),
    )

    def forward(graph):
        for width in (24, 4):
            layer = jraph.GAT(
                attention_query_fn=lambda nodes: hk.Linear(width)(nodes),
                attention_logit_fn=lambda a, b, e: hk.Linear(1)(jax.nn.leaky_relu(jnp.concatenate([a, b], axis=1))),
                node_update_fn=lambda nodes: nodes,
            )
            graph = layer(graph)
        return graph.nodes

    net = hk.without_apply_rng(hk.transform(forward))
    params = net.init(jax.random.key(0), graph)

    def loss_of(params):
        return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, graph), jnp.asarray(club)).mean()

    optimiser = optax.adam(5e-3)
    return (params, optimiser.init(params)), steps.of_loss(optimiser, loss_of), samples.always()


def molecules():
    """Jraph's ogbg_molpcba example: batches of padded graphs, edges, nodes and globals updated by networks."""
    rng = np.random.default_rng(0)

    def molecule():
        n, n_edges = rng.integers(5, 14), rng.integers(8, 25)
        nodes = rng.standard_normal((n, 9)).astype(np.float32)
        senders, receivers = (rng.integers(0, n, n_edges).astype(np.int32) for _ in range(2))
        return jraph.GraphsTuple(
            nodes=nodes, edges=rng.standard_normal((n_edges, 3)).astype(np.float32), senders=senders,
            receivers=receivers, globals=np.zeros((1, 1), np.float32), n_node=np.array([n]), n_edge=np.array([n_edges]),
        )

    def batches():
        while True:
            some = [molecule() for _ in range(12)]
            labels = np.array([float(m.nodes[:, 0].sum() > 0) for m in some] + [0.0], np.float32)
            yield jraph.pad_with_graphs(jraph.batch_np(some), 180, 320, 13), labels

    def forward(graph):
        def update(width):
            return jraph.concatenated_args(hk.Sequential([hk.Linear(width), jax.nn.relu, hk.LayerNorm(-1, True, True)]))

        graph = jraph.GraphMapFeatures(hk.Linear(32), hk.Linear(32), hk.Linear(32))(graph)
        for _ in range(2):
            graph = jraph.GraphNetwork(update(32), update(32), update(32))(graph)
        return hk.Linear(1)(graph.globals)[:, 0]

    net = hk.without_apply_rng(hk.transform(forward))
    params = net.init(jax.random.key(0), next(batches())[0])

    def loss_of(params, graph, labels):
        mask = jraph.get_graph_padding_mask(graph)
        return jnp.sum(optax.sigmoid_binary_cross_entropy(net.apply(params, graph), labels) * mask) / jnp.sum(mask)

    optimiser = optax.adam(1e-3)
    return (params, optimiser.init(params)), steps.of_loss(optimiser, loss_of), batches()
