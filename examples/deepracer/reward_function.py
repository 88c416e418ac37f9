def reward_function(params):
    """Keep to the middle of the road, and steer little."""
    width = params["track_width"]
    off_centre = params["distance_from_center"]
    if off_centre <= 0.1 * width:
        reward = 1.0
    elif off_centre <= 0.25 * width:
        reward = 0.5
    elif off_centre <= 0.5 * width:
        reward = 0.1
    else:
        reward = 1e-3
    if abs(params["steering_angle"]) > 15:
        reward *= 0.8
    return float(reward)
