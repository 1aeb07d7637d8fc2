"""Who acts: users, teams, agents, access tokens; Principal = who, for whom, through which client."""
