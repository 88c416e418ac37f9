"""What learns from the frames that cars have driven: clipped PPO, which uses them once, and SAC, which keeps them."""

import functools

import jax
import numpy as np

import files
import policy
import ppo
import sac
import simulator

# Steps of SAC that can be drawn again, and updates for each new step (the service's is 1).
REPLAY_STEPS, SAC_UPDATES_PER_STEP = 20_000, 1 / 16


class Learner:
    """Parameters, Adam's state and the compiled update; both are donated to it."""

    def __init__(self, setup, hyper, device, params, update):
        self.setup, self.hyper, self.device = setup, hyper, device
        self.n_updates = 0
        self.set(params, ppo.init_adam(self.trained(params)))
        self.update = jax.jit(update, donate_argnums=(0, 1))

    @staticmethod
    def trained(params: dict) -> dict:
        return params

    def set(self, params: dict, adam: dict) -> None:
        self.params, self.adam = jax.device_put((params, adam), self.device)

    @property
    def driver(self) -> dict:
        """The parameters that drive."""
        return self.params

    def _step(self, batch: dict, *more):
        batch = jax.device_put(batch, self.device)
        self.params, self.adam, terms = self.update(self.params, self.adam, batch, np.float32(self.hyper.lr), *more)
        self.n_updates += 1
        return terms

    @staticmethod
    def _means(names, terms) -> dict:
        terms = np.mean([np.asarray(t) for t in terms], 0)
        if not np.isfinite(terms).all():
            raise FloatingPointError(
                f"the loss is {terms.tolist()}; VTRN_VERIFY=1 finds the kernel, a lower lr may avoid it"
            )
        return dict(zip(names, terms.tolist()))

    def arrays(self) -> dict:
        """What a checkpoint holds, by name."""
        out = {f"params/{k}": v for k, v in self.params.items()}
        out |= {f"adam/{part}/{k}": v for part in ("m", "v") for k, v in self.adam[part].items()}
        return out | {"adam/t": self.adam["t"]}

    def restore(self, part, about: dict) -> None:
        """part(prefix) gives the checkpoint's arrays of a prefix."""
        adam = {"m": part("adam/m/"), "v": part("adam/v/"), "t": part("adam/")["t"]}
        self.set(part("params/"), adam)
        self.n_updates = about["n_updates"]


class Ppo(Learner):
    carries = True  # the last frame of an iteration begins the next: its value ends the advantages of this one

    def __init__(self, setup, hyper, device, seed: int):
        loss = ppo.Loss(setup.network, setup.actions, hyper.beta_entropy, files.LOSSES[hyper.loss_type])
        params = policy.init(setup.network, setup.actions, seed)
        super().__init__(setup, hyper, device, params, functools.partial(ppo.update, loss))

    def learn(self, frames, rewards, n_steps: int, rng, show) -> dict:
        """Updates from frames, whose last one gives the value of where its cars are; rewards [T, N]. Means of the terms."""
        values = np.array([f.seen["value"] for f in frames])
        is_end = np.array([f.seen["status"] != simulator.IN_PROGRESS for f in frames[:-1]])
        advantage, target = ppo.advantages(rewards[:-1], values, is_end, self.hyper.discount_factor)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        data = {
            "image": np.concatenate([f.images for f in frames[:-1]]),
            "action": np.concatenate([f.action for f in frames[:-1]]),
            "log_p": np.concatenate([f.seen["log_p"] for f in frames[:-1]]),
            "advantage": advantage.reshape(-1),
            "target": target.reshape(-1),
        }
        if self.setup.scanner:
            data["lidar"] = np.concatenate([f.lidar for f in frames[:-1]])
        n, size = len(data["log_p"]), self.hyper.batch_size
        clip = np.float32(ppo.clip_at(n_steps))
        n_batches, terms = -(-n // size), []
        for epoch in range(self.hyper.num_epochs):
            order = np.resize(rng.permutation(n), n_batches * size)
            for b in range(n_batches):
                rows = order[b * size : (b + 1) * size]
                terms.append(self._step({k: v[rows] for k, v in data.items()}, clip))
                if b % 4 == 0:
                    np.asarray(terms[-1])
                    show(f"epoch {epoch + 1} of {self.hyper.num_epochs}, {b + 1} of {n_batches} batches")
        return self._means(("policy_loss", "value_loss", "entropy", "kl"), terms)


class Sac(Learner):
    carries = False

    def __init__(self, setup, hyper, device, seed: int):
        loss = sac.Loss(setup.network, hyper.sac_alpha, hyper.discount_factor, files.LOSSES[hyper.loss_type])
        super().__init__(
            setup, hyper, device, sac.init(setup.network, setup.actions, seed), functools.partial(sac.update, loss)
        )
        self.replay = None

    @staticmethod
    def trained(params: dict) -> dict:
        return sac.trained(params)

    @property
    def driver(self) -> dict:
        return sac.part(self.params, "policy")

    def learn(self, frames, rewards, n_steps: int, rng, show) -> dict:
        """Keeps the frames, and updates from steps drawn out of all that are kept; rewards [T, N]. Means of the terms."""
        if self.replay is None:
            self.replay = sac.Replay(max(2, REPLAY_STEPS // rewards.shape[1]))
        for frame, reward in zip(frames, rewards):
            goes_on = (frame.seen["status"] == simulator.IN_PROGRESS).astype(np.float32)
            row = {"image": frame.images, "action": frame.action, "reward": reward.astype(np.float32), "goes_on": goes_on}
            self.replay.add(row | ({"lidar": frame.lidar} if self.setup.scanner else {}))
        n_updates, terms = max(1, round(rewards.size * SAC_UPDATES_PER_STEP)), []
        if not self.replay.n_steps:
            raise files.BadFile("SAC needs two frames in an iteration: raise --max-steps above --cars")
        for i in range(n_updates):
            batch = self.replay.draw(rng, self.hyper.batch_size)
            noise = rng.standard_normal(batch["action"].shape).astype(np.float32)
            terms.append(self._step(batch, noise))
            if i % 4 == 0:
                np.asarray(terms[-1])
                show(f"{i + 1} of {n_updates} batches out of {self.replay.n_steps} steps")
        return self._means(sac.TERMS, terms)

    def arrays(self) -> dict:
        """The steps that are kept belong to the training's state: without them a resumed one is another one."""
        kept = {f"replay/{k}": v for k, v in self.replay.columns.items()} if self.replay else {}
        return super().arrays() | kept | ({"replay_added": np.int64(self.replay.n_added)} if self.replay else {})

    def restore(self, part, about: dict) -> None:
        super().restore(part, about)
        columns = part("replay/")
        if columns:
            self.replay = sac.Replay(len(columns["reward"]))
            self.replay.columns, self.replay.n_added = columns, int(part("replay_")["added"])
