#include "loci/tasks/all.h"

#include "loci/tasks/binary_network.h"
#include "loci/tasks/few_shot.h"
#include "loci/tasks/image_classification.h"
#include "loci/tasks/language_model.h"
#include "loci/tasks/meetings.h"
#include "loci/tasks/minutes.h"
#include "loci/tasks/ode_images.h"
#include "loci/tasks/ode_points.h"
#include "loci/tasks/pair_shapes.h"
#include "loci/tasks/ram_task.h"
#include "loci/tasks/random_labels.h"
#include "loci/tasks/reconstruction.h"
#include "loci/tasks/reel_network.h"
#include "loci/tasks/relocalisation.h"
#include "loci/tasks/shapes_keypoints.h"
#include "loci/tasks/skeleton_classification.h"
#include "loci/tasks/stories.h"
#include "loci/tasks/text_classification.h"
#include "loci/tasks/video_classification.h"
#include "loci/tasks/views.h"

namespace loci {

const std::vector<TaskKind>& all_tasks() {
  static const std::vector<TaskKind> tasks = {
      {"binary_network", binary_network_plan},
      {"few_shot", few_shot_plan},
      {"image_classification", image_classification_plan, {"predict"}},
      {"language_model", language_model_plan, {"generate"}},
      {"meetings", meetings_plan},
      {"minutes", minutes_plan},
      {"ode_images", ode_images_plan},
      {"ode_points", ode_points_plan},
      {"pair_shapes", pair_shapes_plan},
      {"ram", ram_plan, {"program"}},
      {"random_labels", random_labels_plan},
      {"reconstruction", reconstruction_plan, {"predict"}},
      {"reel_network", reel_network_plan},
      {"relocalisation", relocalisation_plan, {"predict"}},
      {"shapes_keypoints", shapes_keypoints_plan, {"predict"}},
      {"skeleton_classification", skeleton_classification_plan},
      {"stories", stories_plan},
      {"text_classification", text_classification_plan, {"predict"}},
      {"video_classification", video_classification_plan, {"predict"}},
      {"views", views_plan},
  };
  return tasks;
}

}  // namespace loci
